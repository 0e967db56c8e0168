"""MLflow: its REST interface from here, its server as a process of the local platform.

`client` speaks HTTP, `tracker` and `registry` implement the ports on it, `server` starts MLflow.
Only the server's process imports the SDK: it costs 1.7 CPU seconds, and with Feast installed
beside it the first request of every process imports Feast and torch as well (an entry point of
Feast's), another seven. A client needs a dozen calls of a public interface.
"""
