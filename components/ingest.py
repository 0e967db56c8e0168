"""Raw months from the source into the object store."""

from kfp import dsl

from tidemill import images


@dsl.component(base_image=images.FEATURES, install_kfp_package=False)
def ingest(config: str, as_of: str, run: str) -> int:
    """Read every month as known at `as_of`; return how many partitions are new.

    The run's record is begun first: without its tracker nothing after this would come to an end.
    """
    from tidemill.domain.instants import instant
    from tidemill.domain.months import months
    from tidemill.steps.ingest import ingest
    from tidemill.wiring import Project

    project = Project.open(config)
    project.tracker(run)
    done = ingest(
        project.source,
        project.partitions,
        project.objects,
        months=months(project.settings.data.start, project.settings.data.end),
        as_of=instant(as_of),
    )
    return sum(one.outcome == "recorded" for one in done)
