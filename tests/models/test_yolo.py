"""The detector: boxes worked out by hand, and one batch learned."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmed.models import yolo

ANCHORS = ((8.0, 8.0), (12.0, 6.0))
BOXES = dict(anchors=ANCHORS, cell_px=8)
WEIGHTS = dict(box_weight=5.0, background_weight=0.5)


def make(widths=(4, 6, 8, 8), depth=2):
    return yolo.YOLO(
        widths=widths, depth=depth, anchors=ANCHORS, dtype=jnp.float32, axis_name=None)


def test_each_cell_and_anchor_gives_five_numbers_and_parameters_are_counted():
    model = make(widths=(4, 6), depth=2)
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0),
        jnp.zeros((1, 16, 24, 2)))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes['params']))
    # 3x3 convolutions without bias, scale and offset of the norms, then 1x1.
    expected = 9 * (2 * 4 + 4 * 6 + 6 * 6) + 2 * (4 + 6 + 6) + 6 * 10 + 10
    assert count == expected
    outputs = jax.eval_shape(
        functools.partial(model.apply, train=False), shapes, jnp.zeros((1, 16, 24, 2)))
    assert outputs.shape == (1, 8, 12, 2, 5)


def test_zeros_decode_to_anchors_in_the_middle_of_their_cells():
    found = yolo.decode(jnp.zeros((1, 2, 3, 2, 5)), **BOXES)
    # Cell (row 1, column 2): centre x = 2.5 * 8 = 20, y = 1.5 * 8 = 12.
    np.testing.assert_allclose(found[0, 1, 2, 0], [16, 8, 24, 16, 0.5])
    np.testing.assert_allclose(found[0, 1, 2, 1], [14, 9, 26, 15, 0.5])


def test_offsets_move_and_stretch_a_box():
    outputs = jnp.array([np.log(3.0), -np.log(3.0), np.log(2.0), 0.0, 0.0])
    found = yolo.decode(outputs.reshape(1, 1, 1, 1, 5), anchors=ANCHORS[:1], cell_px=8)
    # sigmoid(log 3) = 3/4, so x = 6 and y = 2; 16 wide, 8 high.
    np.testing.assert_allclose(found.ravel()[:4], [-2, -2, 14, 6], rtol=1e-6)


def test_iou_of_boxes_by_hand():
    box = jnp.array([0.0, 0.0, 4.0, 2.0])
    others = jnp.array([
        [0, 0, 4, 2], [2, 0, 6, 2], [4, 0, 8, 2], [1, 0.5, 2, 1.5], [1, 1, 1, 1],
    ], jnp.float32)
    np.testing.assert_allclose(
        yolo.iou(box, others), [1, 4 / 12, 0, 1 / 8, 0], rtol=1e-6)
    assert yolo.iou(jnp.zeros(4), jnp.zeros(4)) == 0


def test_suppression_keeps_the_surest_of_those_that_overlap():
    found = jnp.array([[
        [0, 0, 10, 10, 0.6], [1, 0, 11, 10, 0.9], [30, 30, 40, 40, 0.9],
        [0, 20, 10, 30, 0.2],
    ]], jnp.float32)
    kept = yolo.suppress(found, iou_limit=0.5, count=5)
    np.testing.assert_allclose(kept[0, :, 4], [0.9, 0.9, 0.2, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(kept[0, 0, :4], [1, 0, 11, 10])  # equals go in order
    np.testing.assert_allclose(kept[0, 1, :4], [30, 30, 40, 40])
    lenient = yolo.suppress(found, iou_limit=0.9, count=4)
    assert np.sum(np.asarray(lenient)[0, :, 4] > 0) == 4


def outputs_of(box, sure):
    """What a network would give that sees just this box, and is `sure` of it."""
    outputs = np.full((1, 4, 4, 2, 5), -20.0, np.float32)
    outputs[..., :4] = 0
    x, y = (box[0] + box[2]) / 16, (box[1] + box[3]) / 16
    share = np.array([x % 1, y % 1])
    outputs[0, int(y), int(x), 0, :2] = np.log(share / (1 - share))
    outputs[0, int(y), int(x), 0, 2:4] = np.log([
        (box[2] - box[0]) / 8, (box[3] - box[1]) / 8])
    outputs[0, int(y), int(x), 0, 4] = sure
    return jnp.array(outputs)


BOX = jnp.array([[9.0, 5.0, 19.0, 13.0]])


def test_a_perfect_answer_costs_next_to_nothing_and_wrong_ones_cost_by_hand():
    loss = functools.partial(yolo.loss, **BOXES, **WEIGHTS)
    perfect = outputs_of(BOX[0], 20.0)
    assert loss(perfect, BOX, jnp.ones(1))[0] < 1e-5
    # Sure of nothing where something is: softplus(0) - 1 * 0 = log 2.
    unsure = outputs_of(BOX[0], 0.0)
    np.testing.assert_allclose(
        loss(unsure, BOX, jnp.ones(1)), [np.log(2)], rtol=1e-4)
    # Twice as wide: 5 * log(2)^2, and an IoU of 1/2 that half the sureness meets.
    wide = perfect.at[0, 1, 1, 0, 2].add(np.log(2.0)).at[0, 1, 1, 0, 4].set(0.0)
    np.testing.assert_allclose(
        loss(wide, BOX, jnp.ones(1)), [5 * np.log(2)**2 + np.log(2)], rtol=1e-4)
    # Sure of something where nothing is: 1/2 * softplus(20).
    np.testing.assert_allclose(
        loss(perfect, BOX, jnp.zeros(1)), [0.5 * 20], rtol=1e-4)


def test_the_responsible_anchor_is_that_of_the_most_similar_shape():
    flat = jnp.array([[6.0, 6.0, 18.0, 12.0]])  # 12 x 6, as the second anchor
    grads = jax.grad(lambda outputs: yolo.loss(
        outputs, flat, jnp.ones(1), **BOXES, **WEIGHTS).sum())(
            jnp.full((1, 4, 4, 2, 5), 0.5))
    moved = np.argwhere(np.abs(np.asarray(grads)[..., :4]).sum(-1) > 0)
    np.testing.assert_array_equal(moved, [[0, 1, 1, 1]])


def test_unknown_slices_bring_neither_loss_nor_gradient():
    def total(outputs):
        return yolo.loss(
            outputs, jnp.full((1, 4), jnp.nan), jnp.array([jnp.nan]), **BOXES,
            **WEIGHTS).sum()

    value, grads = jax.value_and_grad(total)(jnp.ones((1, 4, 4, 2, 5)))
    assert value == 0 and not np.any(grads)


def test_one_batch_is_learned():
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.1, (8, 32, 32, 1)).astype(np.float32)
    boxes = []
    for image in images:
        x, y = rng.integers(2, 20, 2)
        image[y:y + 8, x:x + 10] += 1
        boxes.append((x, y, x + 10, y + 8))
    boxes, present = jnp.array(boxes, jnp.float32), jnp.ones(8).at[-1].set(0)
    model = make()
    variables = model.init(jax.random.key(0), images, train=True)
    tx = optax.adam(1e-2)

    @jax.jit
    def update(params, stats, state):
        def loss_fn(params):
            outputs, changed = model.apply(
                {'params': params, 'batch_stats': stats}, images, train=True,
                mutable=['batch_stats'])
            loss = yolo.loss(outputs, boxes, present, **BOXES, **WEIGHTS).mean()
            return loss, (changed['batch_stats'], outputs)

        grads, (stats, outputs) = jax.grad(loss_fn, has_aux=True)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), stats, state, outputs

    params, stats = variables['params'], variables['batch_stats']
    state = tx.init(params)
    for _ in range(150):
        params, stats, state, outputs = update(params, stats, state)
    best = yolo.suppress(yolo.decode(outputs, **BOXES), iou_limit=0.5, count=1)[:, 0]
    overlaps = np.asarray(yolo.iou(best, boxes))
    assert overlaps[:7].min() > 0.7
    assert best[7, 4] < 0.3 < best[:7, 4].min()
