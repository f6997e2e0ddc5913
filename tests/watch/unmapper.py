"""What unmapper.c does, in Python: UCX by ctypes, and arrays of numpy that come and go.

usage: unmapper.py LIBUCP    prints "up" once the loop runs
"""

import ctypes
import sys
import time

import numpy


def start_ucx(path):
    """Initialises UCX with the first two fields of ucp_params_t: which features there are."""
    ucp = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    params = (ctypes.c_uint64 * 128)(1, 3)
    context = ctypes.c_void_p()
    status = ucp.ucp_init_version(1, 0, params, None, ctypes.byref(context))
    if status != 0:
        sys.exit(f"ucp_init failed: {status}")
    return context


context = start_ucx(sys.argv[1])
print("up", flush=True)
while True:
    for _ in range(200):
        # Above the largest threshold of malloc (32 MiB): each is mapped and unmapped.
        numpy.empty(33 << 20, dtype=numpy.uint8)
    time.sleep(0.005)
