"""The first process of a host: while it lives, so does the host. It ends with whoever holds its
input, and everything on the host with it; orphans are reaped."""

import signal
import sys

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sys.stdout.write("up\n")
sys.stdout.flush()
sys.stdin.read()
