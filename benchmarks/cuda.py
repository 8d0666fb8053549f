"""Work on a CUDA device, measured: captured once as a graph, replayed, timed by events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timing import Meter


class Graph:
    """A call captured as a CUDA graph; where there is no CUDA device, the call itself.

    Args:
        call: Launches work and returns tensors; takes nothing.
        device: Where it works.
    """

    def __init__(self, call: Callable[[], Any], device: str) -> None:
        self.call = call
        self.replay = call
        if device != "cuda":
            return
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):  # compiles, and fills what is kept between calls
                call()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

        def replay() -> Any:
            graph.replay()
            return result

        self.replay = replay

    def __call__(self) -> Any:
        """Do the work again; the tensors returned are always the same ones."""
        return self.replay()


class CudaMeter(Meter):
    """Measures time by events on the stream, and memory by torch's allocator."""

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return how long the device worked, from the first launch to the end."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def weigh(self, call: Callable[[], Any]) -> tuple[float | None, float]:
        """Return what a call adds to the peak of the device, MiB, and its seconds."""
        seconds = self.seconds(call)
        launches = call.call if isinstance(call, Graph) else call  # a graph holds its memory
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        launches()
        torch.cuda.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1), seconds


def meter(device: str) -> Meter:
    """Return what measures on a device."""
    return CudaMeter() if device == "cuda" else Meter()
