"""The demo: 2013 replayed against the real platform, and the account of what happened.

Lives here: the replay's traffic and calendar, and the page that tells its story. May not live
here: anything a project needs in production; the demo only calls what every user can call.
"""
