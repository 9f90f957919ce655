"""A process that keeps what it frees takes no page twice: counted by the system, in processes of their own."""

import platform
import subprocess
import sys

import pytest

from lowcurve import memory

STEPS = """
import ctypes, resource, sys
from lowcurve.memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
sizes = [2**20 * k for k in range(1, 20)]
def step():
    for size, place in [(size, libc.malloc(size)) for size in sizes]:
        ctypes.memset(place, 1, size)
        libc.free(place)
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def counted(way: str) -> int:
    """Pages that 20 steps fault in, each of 19 blocks of 1 to 19 MB, after three such steps."""
    return int(subprocess.run([sys.executable, "-c", STEPS, way], capture_output=True, text=True, check=True).stdout)


@glibc
@pytest.mark.slow
def test_what_is_kept_is_taken_once():
    """A step has 190 MB, 48,640 pages of the usual size: given back, 20 of them take most again, or their folios of 64 KB."""
    assert counted("kept") < 500
    assert counted("given back") > 20 * 190 * 16 / 2


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # calling it would fail
    assert not memory.keep_freed_memory()


@glibc
def test_a_refused_wish_is_said(monkeypatch):
    class Old:
        def mallopt(self, what: int, value: int) -> int:  # noqa: ARG002
            return int(what != memory.M_MMAP_THRESHOLD)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: Old())
    assert not memory.keep_freed_memory()
