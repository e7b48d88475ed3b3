"""OpenMP's threads, let go of while nothing is computed.

The threads of a pool wait for their next piece of work by spinning, which a forward of hundreds of pieces needs:
without it, it takes half as long again. But they also spin for milliseconds after the last piece, on cores that another
actor's forward runs on by then. A pool that is ended when its owner goes to sleep and begun anew with the next forward
costs 0.1 ms and takes nobody's time.
"""

import ctypes

_SOFT = 1  # omp_pause_soft: keep what programs can see, free the threads (OpenMP 5.0, section 3.2.44)


def release_threads() -> None:
    """End the OpenMP threads of the calling thread's pool; the next parallel region starts them again.

    Does nothing where the process has loaded no OpenMP that can.
    """
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    if pause is not None:
        pause(_SOFT)
