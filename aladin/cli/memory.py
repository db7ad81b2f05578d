"""What the commands that run PyTorch for long tell the C library."""

import ctypes


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory instead of returning it, elsewhere do nothing.

    Every step of training allocates the same large tensors; fetching their pages anew took six sevenths of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    mallopt(-4, 0)  # M_MMAP_MAX
