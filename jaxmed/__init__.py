"""jaxmed: medical-imaging models as pure functions in JAX.

`jaxmed.load('RUN')('picture.jpg')` predicts with a trained run.
"""

__version__ = '0.1.0'


def load(workdir, **options):
    """See jaxmed.runs.load; imported late, so that `import jaxmed` stays light."""
    from jaxmed import runs

    return runs.load(workdir, **options)
