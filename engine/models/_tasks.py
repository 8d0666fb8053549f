"""Read-outs of POYO+ and Calcium POYO+: one linear layer per task.

The table of tasks is that of torch_brain 0.1.2 (``torch_brain/registry.py``); a checkpoint holds
their names and widths only.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from .. import errors
from ..bundle import KINDS, Manifest, Task
from ._perceiver import PerceiverInputs, PerceiverModel
from ._perceiver_layers import table_length
from ._site import Shapes

PREFIX = "readout.projections."

# Name to id; ids 4 to 14 are classes, the others continuous.
REGISTRY = {
    name: i + 1
    for i, name in enumerate(
        (
            "cursor_velocity_2d",
            "cursor_position_2d",
            "arm_velocity_2d",
            "drifting_gratings_orientation",
            "drifting_gratings_temporal_frequency",
            "natural_movie_one_frame",
            "natural_movie_two_frame",
            "natural_movie_three_frame",
            "locally_sparse_noise_frame",
            "static_gratings_orientation",
            "static_gratings_spatial_frequency",
            "static_gratings_phase",
            "natural_scenes",
            "gabor_orientation",
            "gabor_pos_2d",
            "running_speed",
            "gaze_pos_2d",
            "pupil_location",
            "pupil_size_2d",
        )
    )
}
CLASSES = range(4, 15)


def table(weights: Mapping[str, Tensor], given: Mapping[str, str]) -> tuple[Task, ...]:
    """Return the tasks of a checkpoint, by id.

    Args:
        weights: By name.
        given: Task name to ``id`` or ``id:kind``, for tasks that torch_brain does not know.

    Raises:
        AttendriteError: An unknown task, or ids that are not distinct rows of the task table.
    """
    names = [n[len(PREFIX) : -len(".weight")] for n in weights if _is_projection(n)]
    for name in given:
        errors.choice("task", name, names)
    tasks = [_task(name, len(weights[f"{PREFIX}{name}.weight"]), given.get(name)) for name in names]
    rows = table_length(weights, "task_emb.weight")
    for task in tasks:
        if not 0 < task.id < rows:
            raise errors.must(
                f"id of task {task.name!r}",
                f"lie in 1..{rows - 1}, the rows of task_emb",
                task.id,
                f"pass --set task.{task.name}=ID",
            )
    if len({task.id for task in tasks}) != len(tasks):
        raise errors.must("ids of tasks", "be distinct", [task.id for task in tasks])
    return tuple(sorted(tasks, key=lambda task: task.id))


def _is_projection(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(".weight")


def _task(name: str, dim: int, given: str | None) -> Task:
    if given is None:
        if name not in REGISTRY:
            todo = f"pass --set task.{name}=ID or ID:KIND, with KIND one of {', '.join(KINDS)}"
            raise errors.must(f"task {name!r}", "be one of torch_brain 0.1.2", "another", todo)
        row = REGISTRY[name]
        return Task(name, row, dim, "multinomial" if row in CLASSES else "continuous")
    number, _, kind = given.partition(":")
    if not number.isascii() or not number.isdigit():
        raise errors.must(f"task.{name}", "be an id, or ID:KIND", repr(given))
    errors.choice("kind of task", kind or KINDS[0], KINDS)
    return Task(name, int(number), dim, kind or KINDS[0])


class MultitaskModel(PerceiverModel):
    """What the models with tasks have in common; see :class:`attendrite.models.Family`."""

    @classmethod
    def tasks(cls, weights: Mapping[str, Tensor], given: Mapping[str, str]) -> tuple[Task, ...]:
        """Return the tasks of a checkpoint, by id; see :func:`table`."""
        return table(weights, given)

    @classmethod
    def shapes(cls, manifest: Manifest, weights: Mapping[str, Tensor]) -> Shapes:
        """Return the shape that every tensor must have; tables are as long as they are."""
        out = super().shapes(manifest, weights)
        dim = out["latent_emb.weight"][1]
        size = table_length(weights, "task_emb.weight")
        out["task_emb.weight"] = (size, dim)
        for task in manifest.tasks:
            if task.id >= size:
                raise errors.must(f"id of task {task.name!r}", f"be below {size}", task.id)
            out[f"{PREFIX}{task.name}.weight"] = (task.dim, dim)
            out[f"{PREFIX}{task.name}.bias"] = (task.dim,)
        return out

    def embedded_queries(self, inputs: PerceiverInputs) -> Tensor:
        """Embed the queries, ``[B, Q, dim]``: who records, and what is asked."""
        asked = super().embedded_queries(inputs)
        if inputs.task_rows is not None:
            asked = asked + self.layers.embed("task_emb", inputs.task_rows)
        return asked

    def readout(self, inputs: PerceiverInputs, decoded: Tensor) -> dict[str, Tensor]:
        """Read every query out with its own task.

        Returns:
            By task, those with queries only, ``[..., n, d]``: window by window, then in the order
            of queries.
        """
        assert inputs.task_rows is not None  # the batch was checked
        out = {}
        for task in self.manifest.tasks:
            mask = inputs.task_rows.eq(task.id)
            if bool(mask.any()):
                out[task.name] = self._read(task, decoded[..., mask, :])
        return out

    def readouts(self, decoded: Tensor) -> dict[str, Tensor]:
        """Read every query out for every task, by name ``[..., B, Q, d]``."""
        return {task.name: self._read(task, decoded) for task in self.manifest.tasks}

    def _read(self, task: Task, decoded: Tensor) -> Tensor:
        weights = self.layers.weights
        weight, bias = (weights[f"{PREFIX}{task.name}.{part}"] for part in ("weight", "bias"))
        return F.linear(decoded, weight, bias)
