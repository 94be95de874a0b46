"""What stands beside the sequence model, and what stands in it."""

import numpy as np

from configs import spine_health_lstm as config
from jaxmed.data import pipeline
from jaxmed.models.boosted_trees import BoostedTrees
from jaxmed.models.motion_index import DEPTH, TREES
from jaxmed.pose.skeletons import BLAZEPOSE
from jaxmed.pose.summaries import summarise
from jaxmed.tasks import spine_baselines, spine_health
from tests.models.trees import computed


def test_trees_that_are_grown_for_a_model_say_what_gradient_boosting_says():
    options = config.get_config('strong').task.to_dict() | dict(
        frames=30, stride=30, rate_hz=10.0)
    task = spine_health.make(**options)
    records = list(task.phantoms(count=8, seed=0))
    records[0]['targets'] = np.float32([np.nan])  # nobody knows: not learnt from
    options = dict(prepare=task.preprocess, skeleton=BLAZEPOSE)
    baseline = spine_baselines.fit(records, **options)['gradient boosting']
    grown = spine_baselines.grow(records, **options)
    batch, _ = pipeline.split_strings(pipeline.stack(records))
    found = computed(lambda: BoostedTrees(TREES, DEPTH).apply(
        {'trees': grown},
        summarise(task.preprocess(batch)['inputs'], skeleton=BLAZEPOSE)))
    assert np.ptp(found) > 0.1
    np.testing.assert_allclose(
        np.clip(found, 0, 1), baseline(batch)['index'], atol=1e-5)
