"""Small pipelines that the tests of the runner run."""
