"""The graphs: what runs after what, with which inputs. What a step does is not here.

One file per pipeline, holding a `@dsl.pipeline` of the file's name. Resources, images, retries and
environment come from the settings (`execution`) when the graph is built. A parameter named
`config`, `as_of` or `correlation_id` is filled by tidemill when it is not given.
"""
