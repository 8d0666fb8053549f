/* attendrite from any language: a trained model from a bundle, run on the CPU without Python.
 *
 *     attendrite_engine* engine;
 *     char message[256];
 *     if (attendrite_open("bundle", 1, &engine, message, sizeof message) != ATTENDRITE_OK) ...
 *     attendrite_bind_units(engine, rows, n_units, message, sizeof message);
 *     attendrite_run(engine, &batch, requests, n_requests, predictions, message, sizeof message);
 *     attendrite_close(engine);
 *
 * Every function that can fail returns a status and, where it is not ATTENDRITE_OK, writes one line
 * to `message` (cut to its size, always ended by 0; may be null with size 0). Nothing is written to
 * results then. Strings are UTF-8. Arrays are contiguous, row-major, and stay the caller's.
 *
 * An engine is used by one thread at a time; attendrite_share() gives another thread its own, with
 * the same weights. A run takes no memory once there was one of a batch of that size with the same
 * requests (attendrite_reserve() says it beforehand), no lock but that of its own threads, and
 * never throws.
 *
 * Stable: functions are added, structures stay as they are; ATTENDRITE_ABI counts incompatible
 * changes.
 */
#ifndef ATTENDRITE_H
#define ATTENDRITE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ATTENDRITE_API __declspec(dllexport)
#else
#define ATTENDRITE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ATTENDRITE_ABI 1

/* The exit statuses of the command line. */
enum { ATTENDRITE_OK = 0, ATTENDRITE_FAULT = 1, ATTENDRITE_BAD_INPUT = 2 };

typedef struct attendrite_engine attendrite_engine;

/* ---- loading ---- */

ATTENDRITE_API int attendrite_abi(void); /* ATTENDRITE_ABI of the library */

/* Loads a bundle: a folder of manifest.json and weights.safetensors. threads >= 1. */
ATTENDRITE_API int attendrite_open(const char* folder, int threads, attendrite_engine** engine,
                                   char* message, size_t size);
/* The same from the contents of the two files, which may be freed afterwards. */
ATTENDRITE_API int attendrite_parse(const char* manifest, size_t manifest_bytes,
                                    const void* weights, size_t weights_bytes, int threads,
                                    attendrite_engine** engine, char* message, size_t size);
/* Another engine with the same weights and the same bound units, for another thread. */
ATTENDRITE_API int attendrite_share(const attendrite_engine* engine, attendrite_engine** other,
                                    char* message, size_t size);
ATTENDRITE_API void attendrite_close(attendrite_engine* engine); /* may be null */
ATTENDRITE_API void attendrite_set_threads(attendrite_engine* engine, int threads);

/* ---- what a model is ---- */

typedef struct {
    int64_t sites;          /* attention layers */
    int64_t tasks;          /* read-outs; 0: one, without a name */
    int64_t width;          /* of a prediction, where there is one read-out; else 0 */
    int64_t latents;        /* of a window */
    int64_t dim;            /* width of tokens, latents and queries */
    double sequence_length; /* of a window, s */
    int32_t takes_values;   /* 1: calcium, tokens have values; 0: spikes, tokens have types */
    int32_t reserved;
} attendrite_model_info;

typedef struct {
    const char* name; /* "encoder", "processor.3", "decoder" */
    int64_t heads, width;
    int32_t has_units; /* 1: keys are tokens of units; 0: latents */
    int32_t reserved;
} attendrite_site_info;

typedef struct {
    const char* name;
    int64_t id; /* row of the task table */
    int64_t width;
    const char* kind; /* "continuous", "binary", "multinomial" or "multilabel" */
} attendrite_task_info;

/* Texts live as long as the engine. */
ATTENDRITE_API void attendrite_model_of(const attendrite_engine*, attendrite_model_info*);
ATTENDRITE_API int attendrite_site(const attendrite_engine*, int64_t i, attendrite_site_info*);
ATTENDRITE_API int attendrite_task(const attendrite_engine*, int64_t i, attendrite_task_info*);
/* Row of a unit or a session in its table, -1: unknown. */
ATTENDRITE_API int64_t attendrite_unit_row(const attendrite_engine*, const char* id);
ATTENDRITE_API int64_t attendrite_session_row(const attendrite_engine*, const char* id);

/* ---- running ---- */

/* Makes the tables of these units, a few ms per 1000; tokens name units by their place here.
 * Nothing is done where they are bound already. */
ATTENDRITE_API int attendrite_bind_units(attendrite_engine* engine, const int64_t* rows, int64_t n,
                                         char* message, size_t size);

enum { ATTENDRITE_SPIKE = 0, ATTENDRITE_START = 1, ATTENDRITE_END = 2 };

/* Windows and what is asked of each. */
typedef struct {
    int64_t windows;
    /* Tokens of window w: first[w] .. first[w] + count[w] - 1 of the arrays, in any order. */
    const int64_t* first;        /* [windows] */
    const int64_t* count;        /* [windows] */
    const double* times;         /* s from the start of the window */
    const int64_t* units;        /* place among the bound units */
    const int64_t* types;        /* 0 spike, 1 START, 2 END; null for calcium */
    const float* values;         /* dF/F; null for spikes */
    int64_t queries;             /* of each window */
    const double* query_times;   /* [windows][queries] s from the start of the window */
    const int64_t* session_rows; /* [windows][queries] row in the session table */
    const int64_t* task_rows; /* [windows][queries] id of the task, 0: no query; null: no tasks */
} attendrite_batch;

/* The tokens of one window of spikes: START and END of every bound unit, then the spikes. Writes
 * 2 * units + n of each, types too; returns how many. */
ATTENDRITE_API int64_t attendrite_tokens(const attendrite_engine*, const double* spike_times,
                                         const int64_t* spike_units, int64_t n, double* times,
                                         int64_t* units, int64_t* types);

/* B windows, H heads, Q queries, K tokens or latents (the longest window's count; padding is 0),
 * U bound units, D width of a head. Sums run over the queries that exist. */
enum {
    ATTENDRITE_WEIGHTS = 0,        /* float [B][H][Q][K] */
    ATTENDRITE_PER_KEY = 1,        /* float [B][H][K] */
    ATTENDRITE_PER_UNIT = 2,       /* float [B][H][U] */
    ATTENDRITE_PER_QUERY_UNIT = 3, /* float [B][H][Q][U] */
    ATTENDRITE_ENTROPY = 4,        /* float [B][H][Q], nats */
    ATTENDRITE_LSE = 5,            /* float [B][H][Q], natural */
    ATTENDRITE_TOP_K = 6,          /* float [B][H][Q][k] weights, second: int64 keys, -1: none */
    ATTENDRITE_PARTIALS = 7,       /* float [B][H][Q][U] lse, second: float [B][H][Q][U][D] */
    ATTENDRITE_LAG = 8,            /* float [B][H][Q], s, query time minus key time */
    ATTENDRITE_OUTPUT = 9,         /* float [B][H][Q][D] of each head, before the projection */
    ATTENDRITE_QUERIES = 10,       /* float [B][H][Q][D] before they turn */
    ATTENDRITE_KEYS = 11           /* float [B][H][K][D] before they turn; latent keys only */
};

typedef struct {
    int64_t site;
    int32_t statistic;
    int32_t spikes_only; /* 1: START and END count for no unit */
    int64_t k;           /* of TOP_K */
    void* result;
    void* second; /* null where there is one array */
} attendrite_request;

/* Runs windows. predictions[0] is float [B][Q][width]; with tasks, predictions[t] is
 * float [queries of the t-th task][its width], window by window, then in the order of queries. */
ATTENDRITE_API int attendrite_run(attendrite_engine* engine, const attendrite_batch* batch,
                                  const attendrite_request* requests, int64_t n_requests,
                                  float* const* predictions, char* message, size_t size);

/* The same from what the encoder's attention gives: `encoded` is float [B][H][latents][D] of the
 * encoder, as ATTENDRITE_OUTPUT returns it there. The batch's tokens are not read and may be null;
 * requests are of later sites. What ATTENDRITE_OUTPUT of a run returned gives that run's
 * predictions, to the bit. */
ATTENDRITE_API int attendrite_run_encoded(attendrite_engine* engine, const attendrite_batch* batch,
                                          const float* encoded, const attendrite_request* requests,
                                          int64_t n_requests, float* const* predictions,
                                          char* message, size_t size);

/* Takes the memory that batches up to this size need: tokens in all, and of the longest window.
 * Without WEIGHTS, PER_QUERY_UNIT, TOP_K and PARTIALS, which take theirs when first asked for. */
ATTENDRITE_API int attendrite_reserve(attendrite_engine* engine, int64_t windows, int64_t tokens,
                                      int64_t longest, int64_t queries, char* message, size_t size);

#ifdef __cplusplus
}
#endif

#endif
