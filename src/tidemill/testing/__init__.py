"""Public fakes of the ports, for the tests of tidemill and of projects built on it.

Lives here: hand-written classes that keep a port's promises in memory, and `canaries`, which judges
simulated rollouts by the functions that decide real ones.
May not live here: mocks, assertions, anything a running project uses.
"""
