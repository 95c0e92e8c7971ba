"""Memory that the processes of Lava share, and that has no name: it is gone when they are, however they end.

Lava's own comes from `multiprocessing.managers`: named segments, which a process of their own is to delete, and a
socket in the temporary folder. Both stay behind when a whole session is killed, and containers have little room for
segments.

In: sizes. Out: buffers. Must not import torch itself.
"""

from __future__ import annotations

from mmap import mmap

from lava.magma.runtime.message_infrastructure import multiprocessing as infrastructure


class Memory:
    """What the channels of Lava read of a shared memory.

    Attributes:
        buf: the bytes; a process that is forked later has the same ones.
    """

    def __init__(self, size: int) -> None:
        self.buf = memoryview(mmap(-1, size))


class Memories:
    """What the message infrastructure of Lava asks of `SharedMemoryManager`."""

    def start(self) -> None:
        """Do nothing: no process is needed."""

    def create_shared_memory(self, size: int) -> Memory:
        """Return a memory of `size` bytes, all 0."""
        return Memory(size)

    def shutdown(self) -> None:
        """Do nothing: a memory is freed with the last channel that holds it."""


def share_without_names() -> None:
    """Let the runs of this process take `Memories`."""
    infrastructure.SharedMemoryManager = Memories
