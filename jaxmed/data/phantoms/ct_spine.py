"""The spine in a slice: vertebrae, discs and the canal with the cord."""

import functools

import numpy as np

from jaxmed.data.phantoms import ct_anatomy as anatomy
from jaxmed.data.phantoms.ct_bones import RIB_NECK, cage_back
from jaxmed.data.phantoms.ct_shapes import (
    bone,
    cover,
    crop,
    find_bounds,
    find_place,
    grain,
    oval,
    paint,
    rod,
    take_slice,
    window,
)

CANAL = 100  # its label, beside VerSe's of the vertebrae
SACRUM = 26  # VerSe's label of all of it
CANAL_END = 26.7  # level below which the canal isn't drawn
_FAR = 1e3  # mm
_REACH = 72.0  # mm about the canal that a vertebra takes up


def canal_distance(section, *, grow_mm=0.0):
    """Distance to the wall of the canal, [H, W]."""
    _, _, lean, _, half_width, half_depth, triangle = section.canal
    # The canal is perpendicular to its own course, not to the slice.
    v = section.behind / np.float32(np.hypot(1, lean) * (half_depth + grow_mm))
    # Pointed at the back: wide in front of the middle, narrow behind it.
    taper = np.clip(1 - np.float32(0.45 * triangle) * (v + 0.25), 0.35, 1.3)
    u = section.across / (np.float32(half_width + grow_mm) * taper)
    radius = np.sqrt(u * u + v * v)
    return (radius - 1) * np.float32(np.minimum(half_width, half_depth) + grow_mm)


def paint_spine(section, image):
    """Vertebrae, discs and the canal with all that is in it.

    Returns:
        labels uint8 [H, W], VerSe's of vertebrae, CANAL, and 0.
    """
    labels = np.zeros(image.shape, np.uint8)
    place = window(section, 0.0, 0.0, _REACH * section.patient.size)
    if place is None or section.level > anatomy.BOTTOM + 1.5 or section.level < 3.8:
        return labels
    near, picture = crop(section, place), image[place]
    patient = section.patient
    spine = patient.spine
    frames = []
    for i in range(len(spine.height)):
        if abs(spine.centre_mm[i, 2] - section.height_mm) < 75 * patient.size:
            frame = _frame(near, i)
            if frame is not None:
                frames.append((i, *frame))
    for i, *frame, bounds in frames:
        _paint_disc(near, picture, i, frame, bounds)
    canal = canal_distance(near)
    open_ = anatomy.TOP - 1 < section.level < CANAL_END
    if open_:
        _paint_canal(near, picture, canal)
    texture = _texture(section, place)
    marked = labels[place]
    for i, *frame, bounds in frames:
        distance = _paint_vertebra(near, picture, i, frame, bounds, canal, texture)
        level = i + anatomy.TOP
        marked[distance < 0] = level if level < anatomy.S1 else SACRUM
    if open_:
        marked[canal < 0] = CANAL
    return labels


def paint_column(stack, image):
    """The same on all slices of a stack at once, without labels.

    Args:
        stack: Section of make_stack, its slices from feet to head.
        image: float32 [D, H, W], HU; painted on.
    """
    spine = stack.patient.spine
    corners = [c[:, ::c.shape[1] - 1, ::c.shape[2] - 1] for c in (
        stack.x, stack.y, stack.z)]
    frames = []
    for i in range(len(spine.height)):
        up = sum(a * (c - o) for a, c, o in zip(
            spine.axes[i, 2], corners, spine.centre_mm[i]))
        low = -1.5 * spine.height[i] - spine.droop[i] - 4
        slices = np.flatnonzero((up.max(axis=(1, 2)) >= low)
                                & (up.min(axis=(1, 2)) <= 1.4 * spine.height[i]))
        if len(slices):
            slices = slice(slices[0], slices[-1] + 1)
            near = _take_slices(stack, slices)
            frame = _frame(near, i)
            if frame is not None:
                frames.append((slices, near, i, *frame))
    for slices, near, i, *frame, bounds in frames:
        _paint_disc(near, image[slices], i, frame, bounds)
    canal = canal_distance(stack)
    levels = stack.level[:, 0, 0]
    open_ = np.flatnonzero((levels > anatomy.TOP - 1) & (levels < CANAL_END))
    if len(open_):
        open_ = slice(open_[0], open_[-1] + 1)
        _paint_canal(_take_slices(stack, open_), image[open_], canal[open_])
    texture = np.stack([
        _texture(take_slice(stack, d), None) for d in range(len(image))])
    for slices, near, i, *frame, bounds in frames:
        _paint_vertebra(
            near, image[slices], i, frame, bounds, canal[slices], texture[slices])


def _take_slices(stack, slices):
    return stack._replace(
        canal=tuple(f[slices] for f in stack.canal), **{
            name: getattr(stack, name)[slices] for name in (
                'x', 'y', 'z', 'across', 'behind', 'to_pixel', 'from_pixel',
                'height_mm', 'level')})


def _texture(section, place):
    """Of spongy bone."""
    return grain(section, 1.3, 0, place=place) + 0.6 * grain(
        section, 4.0, 1, place=place)


def _frame(section, i):
    """Pixels in a vertebra's own axes: left, back, up, with their bounds.

    None if it is far away.
    """
    spine = section.patient.spine
    places = section.x, section.y, section.z
    if section.x.ndim == 3:
        # They are linear: sums of a slice's corner, a row's and a column's part.
        corner, row, column = (np.stack(parts) for parts in zip(*(
            (c[:, :1, :1], c[:1, :, :1] - c[:1, :1, :1], c[:1, :1] - c[:1, :1, :1])
            for c in places)))
        corner = corner - spine.centre_mm[i].reshape(3, 1, 1, 1)
        u, v, w = (
            np.tensordot(axis, corner, 1) + np.tensordot(axis, row, 1)
            + np.tensordot(axis, column, 1) for axis in spine.axes[i])
    else:
        offset = [c - np.float32(o) for c, o in zip(places, spine.centre_mm[i])]
        u, v, w = (sum(np.float32(a) * c for a, c in zip(axis, offset))
                   for axis in spine.axes[i])
    tall = spine.height[i]
    if w.max() < -1.5 * tall - spine.droop[i] - 4 or w.min() > 1.4 * tall:
        return None
    return u, v, w, find_bounds((u, v, w))


def _outline(section, i, u, v, w):
    """Distance to the sides of a vertebra's body, as a column without ends."""
    spine = section.patient.spine
    relative = np.clip(w / np.float32(spine.height[i] / 2), -1.25, 1.25)
    square = relative * relative
    width = spine.half_width[i] * (1 - spine.waist[i] * (1 - square))
    depth = spine.half_depth[i] * (1 - 0.6 * spine.waist[i] * (1 - square))
    rim = spine.osteophyte[i]
    if rim > 0.2:
        angle = np.arctan2(v, u)
        lump = np.maximum(np.sin(angle * 2 + i) - np.sin(angle), 0) * square**2
        width, depth = width + rim * lump, depth + rim * lump
    a, b = np.abs(u) / width, np.abs(v) / depth
    r = (a**np.float32(2.4) + b**np.float32(2.4)) ** np.float32(1 / 2.4)
    sides = (r - 1) * np.float32(min(spine.half_width[i], spine.half_depth[i]))
    # Concave at the back; hearts in the thorax, kidneys in the loin.
    dent = np.float32(0.13 * spine.half_depth[i])
    back = v - depth * np.float32(0.93) + dent * (1 - np.minimum(a, 1) ** 2) * (
        1 - 0.3 * square)
    return np.maximum(sides, back)


def _endplates(section, i, u, v, w):
    """Distance to the nearer endplate of a vertebra's body."""
    spine = section.patient.spine
    half = spine.height[i] / 2
    front, middle, back = (spine.height[i] - spine.heights[i]).astype(np.float32)
    t = v / np.float32(anatomy.STATION * spine.half_depth[i])
    t = np.clip(t - np.float32(anatomy.MIDDLE / anatomy.STATION), -1.2, 1.2)
    # The parabola through what is lost in front, in the middle and at the back.
    lost = middle + t * (back - front) / 2 + t * t * ((back + front) / 2 - middle)
    inward = np.float32(spine.hollow[i]) * np.clip(
        1 - (u / np.float32(spine.half_width[i])) ** 2 - t * t, 0, 1)
    share = np.float32(spine.top_share[i])
    top = w - (half - share * lost) + inward
    bottom = -w - (half - (1 - share) * lost) + inward
    left, behind, radius, depth, side = spine.schmorl[i].astype(np.float32)
    if radius:
        pit = depth * np.exp(-((u - left) ** 2 + (v - behind) ** 2) / radius**2)
        if side > 0:
            top = top + pit
        else:
            bottom = bottom + pit
    return np.maximum(top, bottom)


def _vertebra(section, i, frame, bounds, canal):
    """Distance to a vertebra, body and arch, and to its nearer endplate.

    Far outside the first is _FAR and the second 0: each part is looked at only where
    it may be seen.

    Returns:
        The two, like the frame, and the window with all of the vertebra or None.
    """
    kind = np.result_type(frame[0], section.patient.spine.height)
    distance = np.full(frame[0].shape, _FAR, kind)
    ends = np.zeros_like(distance)
    parts = []
    for low, high, shape in _parts(section, i, canal):
        place = find_place(bounds, np.array(low) - section.edge_mm,
                           np.array(high) + section.edge_mm)
        if place is not None:
            parts.append((place, shape))
    if not parts:
        return distance, ends, None
    whole = tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis))
        for axis in zip(*(place for place, _ in parts)))
    ends[whole] = _endplates(section, i, *(f[whole] for f in frame))
    for place, shape in parts:
        near = distance[place]
        np.minimum(near, shape(
            *(f[place] for f in frame), canal[place], ends[place]), out=near)
    # Nothing of bone grows into the canal.
    np.maximum(distance[whole], -canal[whole], out=distance[whole])
    return distance, ends, whole


def _parts(section, i, canal):
    """The parts of a vertebra: boxes (low, high) of (left, back, up), and distances.

    A distance is a function of (left, back, up, distance to the canal, to endplates).
    """
    spine, patient = section.patient.spine, section.patient
    level = i + anatomy.TOP
    tall, deep = spine.height[i], spine.half_depth[i]
    # The parabola of what is lost may rise at the rims.
    rise = tall / 2 + 0.5 * (tall - spine.heights[i].min()) + 1
    rim = 1.1 * spine.half_width[i] + 3 * spine.osteophyte[i]
    front = 1.1 * deep + 3 * spine.osteophyte[i]

    def body(u, v, w, canal, ends):
        return np.maximum(_outline(section, i, u, v, w), ends)

    if level >= anatomy.S1:
        far = 80 * patient.size
        return [((-far, -far, -rise - 12), (far, far, rise + 12), functools.partial(
            _sacral, section, i, body))]
    long = spine.process[i]
    # Half width and depth of the canal and its centre, in this frame.
    at = np.interp(spine.centre_mm[i, 2], patient.canal.z_mm, np.arange(
        len(patient.canal.z_mm)))
    wide, thick = (np.interp(at, np.arange(len(f)), f) for f in (
        patient.canal.half_width, patient.canal.half_depth))
    back = anatomy.WALL * deep + thick  # of the canal's middle
    loin = float(np.clip((level - 17) / 3, 0, 1))  # 0 thorax, 1 lumbar
    neck = float(level < anatomy.T1)
    girth = (4.8 + 1.6 * loin) * patient.size

    def arch(u, v, w, canal, ends):
        # Laminae: a roof behind the canal, lower behind than in front.
        roof = np.float32(-0.22 * tall) - np.float32(0.35 - 0.1 * loin) * (v - back)
        lamina = np.abs(w - roof) - np.float32((0.52 - 0.1 * loin) * tall)
        shell = np.abs(canal - np.float32(0.55 * girth)) - np.float32(0.5 * girth)
        return np.maximum(np.maximum(shell, lamina), -(v - back + 0.1 * thick))

    # As far as the shell about the canal reaches, which is wider than it is deep.
    grown = 1 + 1.2 * girth / min(wide, thick)
    arch_back = thick * grown + 5
    fall = 0.35 * arch_back
    parts = [
        ((-rim, -front, -rise), (rim, front, rise), body),
        ((-1.3 * wide * grown - 5, back - 0.1 * thick, -0.75 * tall - fall),
         (1.3 * wide * grown + 5, back + arch_back, 0.35 * tall), arch)]

    def add(first, last, radius, *, squash=1.0, paired=True):
        ends = np.array([first, last])
        # Its soft edge is taller, too.
        taller = (radius + section.edge_mm) / squash - section.edge_mm
        grow = np.array([radius, radius, taller])
        low, high = ends.min(0) - grow, ends.max(0) + grow
        if paired:
            low[0] = -high[0]

        def shape(u, v, w, canal, ends):
            return rod(abs(u) if paired else u, v, w, first, last, radius,
                       squash=squash)
        parts.append((low, high, shape))

    side = wide + 0.55 * girth
    add((side, 0.6 * deep, 0.18 * tall), (side, back, 0.12 * tall), 0.62 * girth,
        squash=0.7)
    # Transverse processes: back and up in the thorax, straight out in the loin.
    tip = np.array([29 - 10 * neck + 10 * loin * (1 - abs(level - 22) / 8),
                    back + (17 - 9 * neck) * (1 - loin) + 5 * loin, 0.1 * tall])
    if level in (anatomy.T12, anatomy.T12 - 1):
        tip[0] *= 0.75
    tip[0] *= patient.size * long
    add((side + 1, back + 0.2 * thick, 0.1 * tall), tip,
        (4.8 - 1.4 * loin) * patient.size, squash=0.75)
    # Joints: thin plates in the thorax, knobs in the loin, the upper one outside.
    knob = (3.2 + 2.0 * loin) * patient.size
    outer = side + 1.5 + 4.0 * loin
    add((side + 1, back + 0.35 * thick, 0.1 * tall),
        (outer, back + (0.45 + 0.1 * loin) * thick, 0.72 * tall), knob)
    add((side, back + 0.8 * thick, -0.2 * tall),
        (side + 0.5 - 1.5 * loin, back + (1.0 + 0.15 * loin) * thick + 2,
         -0.85 * tall), knob)
    base = back + thick + 0.4 * girth
    droop = spine.droop[i]
    reach = (33 - 8 * neck) * patient.size * long - 0.45 * droop
    add((0, base, -0.3 * tall), (0, base + max(reach, 8), -0.3 * tall - droop),
        (2.6 + 0.7 * loin) * patient.size, squash=0.55 - 0.2 * loin, paired=False)
    return parts


def _sacral(section, i, body, u, v, w, canal, ends):
    """A part of the sacrum: body, wings and the roof of the canal."""
    body = body(u, v, w, canal, ends)
    spine = section.patient.spine
    size = section.patient.size
    level = i + anatomy.TOP
    half = np.float32(spine.height[i] / 2 + 1)
    span = (54, 45, 34)[level - anatomy.S1] * size
    aside = abs(u)
    # Wings lean back and thin out towards the side.
    lean = np.float32(0.18) * aside
    thick = np.float32(spine.half_depth[i]) * (1.05 - np.float32(0.3 / span) * aside)
    wing = np.maximum(np.abs(v - 5 - lean) - thick, aside - np.float32(span))
    wing = np.maximum(wing, np.abs(w) - half)
    roof = np.maximum(canal - np.float32(4.5 * size), np.abs(w) - half)
    roof = np.maximum(roof, -(v - np.float32(spine.half_depth[i])))
    back = spine.half_depth[i] * 1.9
    crest = rod(u, v, w, (0, back, 0), (0, back + 10 * size, -3), 3.0 * size,
                squash=0.4)
    # Holes for the nerves.
    hole = np.hypot(aside - np.float32(0.42 * span), w + half * 0.8) - 4.5 * size
    distance = np.minimum(np.minimum(body, wing), np.minimum(roof, crest))
    return np.maximum(distance, -hole)


def _rib_neck(patient, i):
    """Ends and radius of the heads and necks of a thoracic vertebra's ribs."""
    spine = patient.spine
    deep = spine.half_depth[i]
    head = (spine.half_width[i] * 0.95 + 2, 0.8 * deep, 0.36 * spine.height[i])
    # Where `paint_ribs` goes on: seen from the canal, not from the body's middle.
    size = patient.size
    out = (RIB_NECK + 1) * size
    back = cage_back(patient, i + anatomy.TOP, out) + (anatomy.WALL * deep + 8.3 * size)
    tip = (out, back - 4 * size, 0.25 * spine.height[i] - 2)
    return head, tip, 3.6 * patient.rib_size


def _paint_disc(section, picture, i, frame, bounds):
    spine, patient = section.patient.spine, section.patient
    level = i + anatomy.TOP
    if level > anatomy.L5:
        return
    end = spine.height[i] / 2
    reach = spine.disc[i] + 3
    aside = 1.1 * spine.half_width[i] + 5 * spine.osteophyte[i]
    deep = 1.1 * spine.half_depth[i] + 5 * spine.osteophyte[i]
    edge = section.edge_mm
    least, most = bounds[0]
    if most[:, 2].max() + end < -reach or least[:, 2].min() + end > 3:
        return
    place = find_place(
        bounds, np.array((-aside, -deep, -end - reach)) - edge,
        np.array((aside, deep, 3 - end)) + edge)
    if place is None:
        return
    u, v, w = (f[place] for f in frame)
    tall = w + np.float32(end)
    sides = _outline(section, i, u, v, w)
    distance = np.maximum(sides, np.maximum(-tall - reach, tall - 3))
    value = patient.disc_hu * (0.85 + 0.15 * cover(-3 - sides, 4))
    worn = spine.disc[i] < 0.62 * anatomy.DISC[i] * patient.size
    if worn and i % 3 == 0:  # gas in a worn disc
        gas = oval(u, v, (0, -2), (0.6 * spine.half_width[i],
                                   0.4 * spine.half_depth[i]))
        value = value - 500 * cover(np.maximum(gas, np.abs(tall + spine.disc[i] / 2)
                                               - 1.2), edge)
    paint(picture[place], value, cover(distance, edge))


def _paint_canal(section, picture, canal):
    """Epidural fat, the sac with its fluid, and the cord or the roots of the tail."""
    patient = section.patient
    _, _, lean, _, half_width, half_depth, triangle = section.canal
    edge, level = section.edge_mm, section.level
    # Around it ligaments and joints where there is no bone.
    paint(picture, patient.muscle_hu + 15, cover(canal - 3, edge))
    paint(picture, patient.epidural_hu, cover(canal, edge))
    shrink = np.where(level > 24, np.clip((27.5 - level) / 3.5, 0.15, 1), 1)
    sac_wide = half_width * (0.9 - 0.12 * triangle) * shrink
    sac_deep = half_depth * (0.92 - 0.1 * triangle) * shrink
    middle = (0.0, -0.12 * half_depth * triangle)
    sac = oval(section.across, section.behind, middle, (sac_wide, sac_deep))
    paint(picture, patient.fluid_hu, cover(np.maximum(sac, canal), edge))
    wide, deep, end, value = patient.cord
    left = np.clip((end - level) / 1.2, 0, 1)
    # Thicker where the arms' roots leave.
    wide = wide * np.where(level < 10, 1.2, 1)
    seen = np.float32(left > 0.05)
    if np.any(seen):
        place = (0.3 * lean, -0.1 * half_depth + 0.3 * half_depth * lean)
        cord = oval(section.across, section.behind, place, (
            np.minimum(np.maximum(wide * left, 0.01), 0.75 * sac_wide),
            np.minimum(np.maximum(deep * left, 0.01), 0.75 * sac_deep)))
        paint(picture, value, seen * cover(cord, edge))
    share = np.float32(0.8 * (1 - left) * (level < 26))
    if np.any(share):
        # Roots sink to the back of the sac of a patient on the back.
        roots = oval(section.across, section.behind,
                     (0, 0.3 * sac_deep), (0.8 * sac_wide, 0.5 * sac_deep))
        paint(picture, 0.7 * value, share * cover(roots, edge))


def _paint_vertebra(section, picture, i, frame, bounds, canal, texture):
    """Returns the distance to it, like the picture, as _vertebra's."""
    patient = section.patient
    level = i + anatomy.TOP
    distance, ends, whole = _vertebra(section, i, frame, bounds, canal)
    if whole is None:
        return distance
    spongy = patient.spongy_hu * (1.15 if level < anatomy.T1 + 6 else 1.0)
    lack = np.float32(patient.spine.height[i] - patient.spine.heights[i].min())

    def soft(place, ends):
        # Endplates harden with wear, broken bodies where they are pressed together.
        plate = cover(-ends - (2 + 0.4 * lack) * patient.sclerosis - 1, 3)
        return (spongy + patient.marrow_spread * texture[place]
                + 200 * patient.sclerosis * plate)

    value, share = bone(
        section, distance[whole], cortex_mm=patient.cortex_mm, cortex_hu=(
            patient.cortex_hu + 0.8 * patient.marrow_spread * texture[whole]),
        spongy_hu=soft(whole, ends[whole]))
    paint(picture[whole], value, share)
    if anatomy.T1 <= level <= anatomy.T12:
        head, tip, radius = _rib_neck(patient, i)
        low = np.minimum(head, tip) - radius - section.edge_mm
        high = np.maximum(head, tip) + radius + section.edge_mm
        low[0] = -high[0]
        place = find_place(bounds, low, high)
        if place is not None:
            u, v, w = (f[place] for f in frame)
            neck = rod(abs(u), v, w, head, tip, radius)
            spongy_hu = 0.6 * soft(place, _endplates(section, i, u, v, w)) + 40
            value, share = bone(
                section, neck, cortex_mm=0.8 * patient.cortex_mm,
                cortex_hu=0.9 * patient.cortex_hu, spongy_hu=spongy_hu)
            paint(picture[place], value, share * cover(
                -distance[place] - 0.5, section.edge_mm))
    return distance
