"""Public fakes of the ports, for the tests of tidemill and of projects built on it.

Lives here: hand-written classes that keep a port's promises in memory.
May not live here: mocks, assertions, anything a running project uses.
"""
