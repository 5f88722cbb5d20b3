"""Let a worker that is still starting be stopped."""

import os
import signal

_STOP = {signal.SIGINT, signal.SIGTERM}


def install() -> None:
    """Give the workers that this process forks from now on the default handling of a stop.

    granian sets up a worker's own handlers after the worker has created the app. Before that, the
    worker has the handlers that it inherited, which only set a flag of the parent. A stop in that
    time had no effect, and the server waited for the worker until the kill timeout.
    """
    parent = os.getpid()

    def block() -> None:
        if os.getpid() == parent:  # not a worker that forks for the app
            signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)

    def unblock() -> None:
        if os.getpid() == parent:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)

    def reset() -> None:
        if os.getppid() == parent:
            for stop in _STOP:
                signal.signal(stop, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)  # one that has come since ends it now

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=reset)
