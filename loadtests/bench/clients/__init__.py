"""Load from outside: C programs in processes of their own, told what to do over a pipe."""
