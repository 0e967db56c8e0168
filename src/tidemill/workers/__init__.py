"""One process per core: a parent that serves nothing, and the workers that it keeps running.

Lives here: the parent (`parent`), what it and a worker ask each other (`wire`), a worker's end of
that (`member`, and `place`, what it is started with), the counters of all workers (`totals`),
numbers that they share (`cells`), and what every serving process needs: its listening sockets
(`listener`) and its events (`lines`).
May not live here: what answers a request, or its libraries. The parent of many workers must be
small: with the server's libraries it had 107 MB instead of 46.
"""
