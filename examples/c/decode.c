/* Decodes a text file of spikes, window by window, as a rig would do it; see README.md beside it.
 *
 *     decode BUNDLE SPIKES.csv SESSION HOP_S
 */
#include <attendrite.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOP 5

static char message[256];

static void fail(const char* what) {
    fprintf(stderr, "decode: %s\n", what);
    exit(ATTENDRITE_BAD_INPUT);
}

static void check(int status) {
    if (status == ATTENDRITE_OK) return;
    fprintf(stderr, "decode: %s\n", message);
    exit(status);
}

static void* grown(void* memory, size_t bytes) {
    memory = realloc(memory, bytes > 0 ? bytes : 1);
    if (memory == NULL) fail("memory must suffice for the spikes, got none; cut the file");
    return memory;
}

/* Spikes in the order of time, and the units that were recorded, whether they fired or not. */
typedef struct {
    int64_t n, room, n_units;
    double* times;  /* [n] s */
    int64_t* units; /* [n] place among the units */
    char** ids;     /* [n_units] */
    int64_t* rows;  /* [n_units] in the unit table of the model */
} recording;

static int64_t place_of(recording* r, const attendrite_engine* engine, const char* id) {
    int64_t u = 0;
    while (u < r->n_units && strcmp(r->ids[u], id) != 0) ++u;
    if (u < r->n_units) return u;
    const int64_t row = attendrite_unit_row(engine, id);
    if (row < 0) {
        snprintf(message, sizeof message, "unit must be known to the model, got '%s'", id);
        fail(message);
    }
    r->ids = grown(r->ids, (size_t)(u + 1) * sizeof *r->ids);
    r->rows = grown(r->rows, (size_t)(u + 1) * sizeof *r->rows);
    r->ids[u] = strcpy(grown(NULL, strlen(id) + 1), id);
    r->rows[u] = row;
    return r->n_units++;
}

static void add_spike(recording* r, double time, int64_t unit) {
    if (!isfinite(time) || (r->n > 0 && time < r->times[r->n - 1])) {
        fail("times must be finite and sorted; sort the file by time");
    }
    if (r->n == r->room) {
        r->room = 2 * r->room + 1024;
        r->times = grown(r->times, (size_t)r->room * sizeof *r->times);
        r->units = grown(r->units, (size_t)r->room * sizeof *r->units);
    }
    r->times[r->n] = time;
    r->units[r->n++] = unit;
}

/* Lines of "time,unit id"; without a time they name a unit that was recorded. */
static recording read_spikes(const char* path, const attendrite_engine* engine) {
    recording r = {0};
    char line[1024];
    FILE* file = fopen(path, "r");
    if (file == NULL) fail("the file of spikes must be readable; check its name");
    while (fgets(line, sizeof line, file) != NULL) {
        char* end;
        const double time = strtod(line, &end);
        if (*end != ',') fail("lines must be 'time,unit id'");
        line[strcspn(line, "\r\n")] = '\0';
        const int64_t unit = place_of(&r, engine, end + 1);
        if (end > line) add_spike(&r, time, unit);
    }
    fclose(file);
    if (r.n == 0) fail("the file must hold spikes, got none");
    return r;
}

/* A spike within half a microsecond of a window's edge is on it. */
static long long ticks(double time) { return llround(time * 1e6); }

static void print_top(const recording* r, const float* per_unit, const attendrite_site_info* site,
                      int64_t latents) {
    double* share = grown(NULL, (size_t)r->n_units * sizeof *share);
    for (int64_t u = 0; u < r->n_units; ++u) {
        share[u] = 0;
        for (int64_t h = 0; h < site->heads; ++h) share[u] += per_unit[h * r->n_units + u];
        share[u] /= (double)(site->heads * latents);
    }
    for (int rank = 0; rank < TOP && rank < r->n_units; ++rank) {
        int64_t best = 0;
        for (int64_t u = 1; u < r->n_units; ++u) {
            if (share[u] > share[best]) best = u;
        }
        printf(",%s,%.6g", r->ids[best], share[best]);
        share[best] = -1;
    }
    free(share);
}

int main(int argc, char** argv) {
    if (argc != 5) fail("usage: decode BUNDLE SPIKES.csv SESSION HOP_S");
    if (attendrite_abi() != ATTENDRITE_ABI) fail("libattendrite must be of this interface");
    const double hop = strtod(argv[4], NULL);
    if (!(hop > 0)) fail("HOP_S must be above 0 s");

    /* Once: load, find out what the model is, bind the units, take the memory. */
    attendrite_engine* engine;
    check(attendrite_open(argv[1], 1, &engine, message, sizeof message));
    attendrite_model_info model;
    attendrite_site_info encoder;
    attendrite_model_of(engine, &model);
    attendrite_site(engine, 0, &encoder);
    if (model.takes_values || model.tasks > 0) fail("the model must be a POYO");
    const int64_t session = attendrite_session_row(engine, argv[3]);
    if (session < 0) fail("SESSION must be known to the model");
    recording r = read_spikes(argv[2], engine);
    check(attendrite_bind_units(engine, r.rows, r.n_units, message, sizeof message));

    const int64_t most = 2 * r.n_units + r.n; /* tokens of a window: START, END, spikes */
    check(attendrite_reserve(engine, 1, most, most, 1, message, sizeof message));
    double* times = grown(NULL, (size_t)most * sizeof *times);
    int64_t* units = grown(NULL, (size_t)most * sizeof *units);
    int64_t* types = grown(NULL, (size_t)most * sizeof *types);
    double* within = grown(NULL, (size_t)r.n * sizeof *within);
    float* position = grown(NULL, (size_t)model.width * sizeof *position);
    float* per_unit = grown(NULL, (size_t)(encoder.heads * r.n_units) * sizeof *per_unit);

    /* For every window: its tokens, one query at its end, one call. */
    const double length = model.sequence_length;
    const int64_t none = 0;
    int64_t count, begin = 0, end = 0;
    attendrite_batch batch = {0};
    batch.windows = batch.queries = 1;
    batch.first = &none;
    batch.count = &count;
    batch.times = times;
    batch.units = units;
    batch.types = types;
    batch.query_times = &length;
    batch.session_rows = &session;
    attendrite_request request = {0}; /* of the encoder, the first site */
    request.statistic = ATTENDRITE_PER_UNIT;
    request.spikes_only = 1;
    request.result = per_unit;

    for (int64_t step = 0;; ++step) {
        const double start = r.times[0] + (double)step * hop, stop = start + length;
        if (stop > r.times[r.n - 1]) break;
        while (ticks(r.times[begin]) < ticks(start)) ++begin;
        while (ticks(r.times[end]) < ticks(stop)) ++end;
        for (int64_t i = begin; i < end; ++i) {
            within[i - begin] = fmin(fmax(r.times[i] - start, 0), nextafter(length, 0));
        }
        count =
            attendrite_tokens(engine, within, r.units + begin, end - begin, times, units, types);
        check(attendrite_run(engine, &batch, &request, 1, &position, message, sizeof message));
        printf("%.6f", stop);
        for (int64_t i = 0; i < model.width; ++i) printf(",%.6g", position[i]);
        print_top(&r, per_unit, &encoder, model.latents);
        printf("\n");
    }

    for (int64_t u = 0; u < r.n_units; ++u) free(r.ids[u]);
    free(r.ids), free(r.rows), free(r.times), free(r.units);
    free(times), free(units), free(types), free(within), free(position), free(per_unit);
    attendrite_close(engine);
    return ATTENDRITE_OK;
}
