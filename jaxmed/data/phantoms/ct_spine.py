"""The spine in a slice: vertebrae, discs and the canal with the cord."""

import functools

import numpy as np

from jaxmed.data.phantoms import ct_anatomy as anatomy
from jaxmed.data.phantoms.ct_bones import RIB_NECK, cage_back
from jaxmed.data.phantoms.ct_shapes import (
    bone,
    cover,
    crop,
    grain,
    oval,
    paint,
    rod,
    window,
)

CANAL = 100  # its label, beside VerSe's of the vertebrae
SACRUM = 26  # VerSe's label of all of it
CANAL_END = 26.7  # level below which the canal isn't drawn
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
    return (radius - 1) * np.float32(min(half_width, half_depth) + grow_mm)


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
    for i, u, v, w in frames:
        _paint_disc(near, picture, i, u, v, w)
    canal = canal_distance(near)
    open_ = anatomy.TOP - 1 < section.level < CANAL_END
    if open_:
        _paint_canal(near, picture, canal)
    texture = grain(section, 1.3, 0, place=place) + 0.6 * grain(
        section, 4.0, 1, place=place)
    marked = labels[place]
    for i, u, v, w in frames:
        distance, ends = _vertebra(near, i, u, v, w, canal)
        _paint_vertebra(near, picture, i, (u, v, w), distance, ends, texture)
        level = i + anatomy.TOP
        marked[distance < 0] = level if level < anatomy.S1 else SACRUM
    if open_:
        marked[canal < 0] = CANAL
    return labels


def _frame(section, i):
    """Pixels in a vertebra's own axes: left, back, up; None if it is far away."""
    spine = section.patient.spine
    offset = [c - np.float32(o) for c, o in zip(
        (section.x, section.y, section.z), spine.centre_mm[i])]
    u, v, w = (sum(np.float32(a) * c for a, c in zip(axis, offset))
               for axis in spine.axes[i])
    tall = spine.height[i]
    if w.max() < -1.5 * tall - spine.droop[i] - 4 or w.min() > 1.4 * tall:
        return None
    return u, v, w


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


def _body(section, i, u, v, w):
    """Distance to a vertebra's body and to its nearer endplate."""
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
    ends = np.maximum(top, bottom)
    return np.maximum(_outline(section, i, u, v, w), ends), ends


def _vertebra(section, i, u, v, w, canal):
    """Distance to a vertebra, body and arch, and to its nearer endplate."""
    spine, patient = section.patient.spine, section.patient
    level = i + anatomy.TOP
    body, ends = _body(section, i, u, v, w)
    if level >= anatomy.S1:
        return _sacral(section, i, u, v, w, body, canal), ends
    tall, deep = spine.height[i], spine.half_depth[i]
    long = spine.process[i]
    aside = abs(u)
    # Half width and depth of the canal and its centre, in this frame.
    at = np.interp(spine.centre_mm[i, 2], patient.canal.z_mm, np.arange(
        len(patient.canal.z_mm)))
    wide, thick = (np.interp(at, np.arange(len(f)), f) for f in (
        patient.canal.half_width, patient.canal.half_depth))
    back = anatomy.WALL * deep + thick  # of the canal's middle
    loin = float(np.clip((level - 17) / 3, 0, 1))  # 0 thorax, 1 lumbar
    neck = float(level < anatomy.T1)
    girth = (4.8 + 1.6 * loin) * patient.size
    # Laminae: a roof behind the canal, lower behind than in front.
    roof = np.float32(-0.22 * tall) - np.float32(0.35 - 0.1 * loin) * (v - back)
    lamina = np.abs(w - roof) - np.float32((0.52 - 0.1 * loin) * tall)
    shell = np.abs(canal - np.float32(0.55 * girth)) - np.float32(0.5 * girth)
    arch = np.maximum(np.maximum(shell, lamina), -(v - back + 0.1 * thick))
    parts = [body, arch]
    side = wide + 0.55 * girth
    parts.append(rod(aside, v, w, (side, 0.6 * deep, 0.18 * tall),
                     (side, back, 0.12 * tall), 0.62 * girth, squash=0.7))
    # Transverse processes: back and up in the thorax, straight out in the loin.
    tip = np.array([29 - 10 * neck + 10 * loin * (1 - abs(level - 22) / 8),
                    back + (17 - 9 * neck) * (1 - loin) + 5 * loin, 0.1 * tall])
    if level in (anatomy.T12, anatomy.T12 - 1):
        tip[0] *= 0.75
    tip[0] *= patient.size * long
    parts.append(rod(aside, v, w, (side + 1, back + 0.2 * thick, 0.1 * tall), tip,
                     (4.8 - 1.4 * loin) * patient.size, squash=0.75))
    # Joints: thin plates in the thorax, knobs in the loin, the upper one outside.
    knob = (3.2 + 2.0 * loin) * patient.size
    outer = side + 1.5 + 4.0 * loin
    parts.append(rod(aside, v, w, (side + 1, back + 0.35 * thick, 0.1 * tall),
                     (outer, back + (0.45 + 0.1 * loin) * thick, 0.72 * tall), knob))
    parts.append(rod(aside, v, w, (side, back + 0.8 * thick, -0.2 * tall),
                     (side + 0.5 - 1.5 * loin, back + (1.0 + 0.15 * loin) * thick + 2,
                      -0.85 * tall), knob))
    base = back + thick + 0.4 * girth
    droop = spine.droop[i]
    reach = (33 - 8 * neck) * patient.size * long - 0.45 * droop
    parts.append(rod(u, v, w, (0, base, -0.3 * tall),
                     (0, base + max(reach, 8), -0.3 * tall - droop),
                     (2.6 + 0.7 * loin) * patient.size, squash=0.55 - 0.2 * loin))
    distance = functools.reduce(np.minimum, parts)
    return np.maximum(distance, -canal), ends  # nothing of bone grows into the canal


def _sacral(section, i, u, v, w, body, canal):
    """A part of the sacrum: body, wings and the roof of the canal."""
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
    return np.maximum(np.maximum(distance, -hole), -canal)


def _rib_neck(section, i, u, v, w):
    """Distance to the heads and necks of a thoracic vertebra's ribs."""
    spine, patient = section.patient.spine, section.patient
    deep = spine.half_depth[i]
    head = (spine.half_width[i] * 0.95 + 2, 0.8 * deep, 0.36 * spine.height[i])
    # Where `paint_ribs` goes on: seen from the canal, not from the body's middle.
    size = patient.size
    out = (RIB_NECK + 1) * size
    back = cage_back(patient, i + anatomy.TOP, out) + (anatomy.WALL * deep + 8.3 * size)
    tip = (out, back - 4 * size, 0.25 * spine.height[i] - 2)
    return rod(abs(u), v, w, head, tip, 3.6 * patient.rib_size)


def _paint_disc(section, picture, i, u, v, w):
    spine, patient = section.patient.spine, section.patient
    level = i + anatomy.TOP
    if level > anatomy.L5:
        return
    end = spine.height[i] / 2
    tall = w + np.float32(end)
    reach = spine.disc[i] + 3
    if tall.max() < -reach or tall.min() > 3:
        return
    sides = _outline(section, i, u, v, w)
    distance = np.maximum(sides, np.maximum(-tall - reach, tall - 3))
    value = patient.disc_hu * (0.85 + 0.15 * cover(-3 - sides, 4))
    worn = spine.disc[i] < 0.62 * anatomy.DISC[i] * patient.size
    if worn and i % 3 == 0:  # gas in a worn disc
        gas = oval(u, v, (0, -2), (0.6 * spine.half_width[i],
                                   0.4 * spine.half_depth[i]))
        value = value - 500 * cover(np.maximum(gas, np.abs(tall + spine.disc[i] / 2)
                                               - 1.2), section.edge_mm)
    paint(picture, value, cover(distance, section.edge_mm))


def _paint_canal(section, picture, canal):
    """Epidural fat, the sac with its fluid, and the cord or the roots of the tail."""
    patient = section.patient
    _, _, lean, _, half_width, half_depth, triangle = section.canal
    edge = section.edge_mm
    # Around it ligaments and joints where there is no bone.
    paint(picture, patient.muscle_hu + 15, cover(canal - 3, edge))
    paint(picture, patient.epidural_hu, cover(canal, edge))
    sac_wide = half_width * (0.9 - 0.12 * triangle)
    sac_deep = half_depth * (0.92 - 0.1 * triangle)
    if section.level > 24:
        shrink = np.clip((27.5 - section.level) / 3.5, 0.15, 1)
        sac_wide, sac_deep = sac_wide * shrink, sac_deep * shrink
    middle = (0.0, -0.12 * half_depth * triangle)
    sac = oval(section.across, section.behind, middle, (sac_wide, sac_deep))
    paint(picture, patient.fluid_hu, cover(np.maximum(sac, canal), edge))
    wide, deep, end, value = patient.cord
    left = float(np.clip((end - section.level) / 1.2, 0, 1))
    if section.level < 10:  # thicker where the arms' roots leave
        wide = wide * 1.2
    if left > 0.05:
        place = (0.3 * lean, -0.1 * half_depth + 0.3 * half_depth * lean)
        cord = oval(section.across, section.behind, place,
                    (min(wide * left, 0.75 * sac_wide),
                     min(deep * left, 0.75 * sac_deep)))
        paint(picture, value, cover(cord, edge))
    if left < 1 and section.level < 26:
        # Roots sink to the back of the sac of a patient on the back.
        roots = oval(section.across, section.behind,
                     (0, 0.3 * sac_deep), (0.8 * sac_wide, 0.5 * sac_deep))
        paint(picture, 0.7 * value, 0.8 * (1 - left) * cover(roots, edge))


def _paint_vertebra(section, picture, i, frame, distance, ends, texture):
    patient = section.patient
    level = i + anatomy.TOP
    if distance.min() > section.edge_mm:
        return
    spongy = patient.spongy_hu * (1.15 if level < anatomy.T1 + 6 else 1.0)
    spongy = spongy + patient.marrow_spread * texture
    lack = np.float32(patient.spine.height[i] - patient.spine.heights[i].min())
    # Endplates harden with wear, broken bodies where they are pressed together.
    plate = cover(-ends - (2 + 0.4 * lack) * patient.sclerosis - 1, 3)
    spongy = spongy + 200 * patient.sclerosis * plate
    value, share = bone(
        section, distance, cortex_mm=patient.cortex_mm, cortex_hu=patient.cortex_hu
        + 0.8 * patient.marrow_spread * texture, spongy_hu=spongy)
    paint(picture, value, share)
    if anatomy.T1 <= level <= anatomy.T12:
        neck = _rib_neck(section, i, *frame)
        value, share = bone(
            section, neck, cortex_mm=0.8 * patient.cortex_mm,
            cortex_hu=0.9 * patient.cortex_hu, spongy_hu=0.6 * spongy + 40)
        paint(picture, value, share * cover(-distance - 0.5, section.edge_mm))
