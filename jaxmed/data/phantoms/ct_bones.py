"""Bones of a slice but the spine: ribs, shoulders, arms and pelvis."""

import functools

import numpy as np

from jaxmed.data.phantoms import ct_anatomy as anatomy
from jaxmed.data.phantoms.ct_shapes import (
    blob,
    bone,
    cover,
    crop,
    oval,
    paint,
    rod,
    stroke,
    window,
)

# The cage of the ribs by level: half width, front and back seen from the canal.
_CAGE_LEVEL = (7, 8, 9, 10, 11, 13, 15, 17, 19, 21, 23)
_CAGE = np.array([
    (40, 58, 80, 98, 110, 122, 128, 131, 129, 126, 120),
    (-30, -45, -68, -88, -104, -124, -134, -134, -128, -118, -105),
    (8, 12, 17, 21, 24, 27, 28, 28, 26, 23, 20)], float)
_CAGE_POWER = 2.2
RIB_NECK = 40.0  # mm from the middle to where a rib leaves the transverse process
_RIB_ENDS = (1.9, 2.3, 2.45, 2.5, 2.5, 2.45, 2.35, 2.2, 2.1, 2.0, 1.35, 0.9)  # radians
_GRISTLE_ENDS = (3.0,) * 10 + (1.4, 0.95)


def cage(section):
    """Distance to the surface that the ribs run on, and its centre and radii."""
    centre, radii = _cage_at(section.patient, section.level)
    distance = oval(section.across, section.behind, centre, radii, power=_CAGE_POWER)
    return distance, centre, radii


def _cage_at(patient, level):
    half, front, back = (np.interp(level, _CAGE_LEVEL, row) for row in _CAGE)
    half, front = half * patient.girth, front * patient.depth
    back = back * patient.size
    return (0.0, (front + back) / 2), (half, (back - front) / 2)


def cage_back(patient, level, across):
    """Where the cage's back is, seen from the canal, `across` mm from the middle."""
    centre, radii = _cage_at(patient, level)
    part = (1 - (across / radii[0]) ** _CAGE_POWER) ** (1 / _CAGE_POWER)
    return centre[1] + radii[1] * part


def paint_ribs(section, image, distance, centre):
    """Ribs and their cartilage: all that cross the slice at once."""
    patient = section.patient
    if not 6.5 < section.level < 24:
        return
    size = patient.rib_size
    ring = np.nonzero(np.abs(distance + 4) < 8 * size + section.edge_mm)
    across = section.across[ring]
    behind = section.behind[ring] - np.float32(centre[1])
    angle = np.arctan2(np.abs(across), behind)  # 0 at the back, pi in front
    drop = patient.rib_drop * np.interp(
        section.level, [8, 10, 13, 18], [0.35, 0.7, 1.0, 1.15])
    turned = (1 - np.cos(angle)) / 2
    # Cartilage climbs back to the sternum.
    rise = 1.5 * drop * np.maximum(turned - 0.82, 0)
    height = section.z[ring] + np.float32(drop) * turned - rise
    spine = patient.spine
    first = anatomy.T1 - anatomy.TOP
    origin = (spine.centre_mm[first:first + 12, 2]
              + 0.3 * spine.height[first:first + 12])
    number = np.interp(-height, -origin, np.arange(12.0))
    number = np.rint(number).astype(int)
    slope = drop * np.sin(angle) / 2 / 125
    tall = np.array([4.5] + [6.2] * 9 + [5.5, 4.5])[number] * size
    gap = (height - origin[number]) / np.sqrt(1 + slope * slope) / tall
    depth = (distance[ring] + np.float32(4 * size)) / (3.7 * size)
    shape = (np.sqrt(gap * gap + depth * depth) - 1) * np.float32(3.7 * size)
    shape = np.maximum(shape, np.float32(RIB_NECK * patient.size) - np.abs(across))
    end, gristle_end = np.array(_RIB_ENDS)[number], np.array(_GRISTLE_ENDS)[number]
    hard = np.maximum(shape, (angle - end) * 100)
    value, share = bone(
        section, hard, cortex_mm=0.9 * patient.cortex_mm * size,
        cortex_hu=0.9 * patient.cortex_hu, spongy_hu=0.5 * patient.spongy_hu + 40)
    soft = cover(np.maximum(shape, (angle - gristle_end) * 100), section.edge_mm)
    values = image[ring]
    paint(values, 60 + 120 * patient.calcium + 60 * patient.organ[23], soft)
    paint(values, value, share)
    image[ring] = values


def paint_shoulders(section, image, arms):
    """Sternum, collar bones, shoulder blades and upper arms.

    Args:
        section: Section.
        image: float32 [H, W], HU; painted on.
        arms: [6]; see `arm_axis`.
    """
    patient, level = section.patient, section.level
    if level > 20:
        return
    hard = dict(cortex_mm=1.1 * patient.cortex_mm, cortex_hu=patient.cortex_hu,
                spongy_hu=0.5 * patient.spongy_hu + 40)
    _, centre, radii = cage(section)
    front = centre[1] - radii[1] - 3
    if 9.8 < level < 17:
        half = np.interp(
            level, [9.8, 10.5, 11.5, 12, 15.5, 17], [20, 30, 22, 15, 19, 6])
        place = window(section, 0, front, 40)
        if place is not None:
            near = crop(section, place)
            flat = oval(near.across, near.behind, (0, front),
                        (half * patient.size, 5.5 * patient.size), power=4.0)
            value, share = bone(near, flat, **hard | {
                'cortex_mm': 0.6 * patient.cortex_mm})
            paint(image[place], value, share)
    for side in (-1, 1):
        shoulder, elbow, _ = arm_axis(patient, arms, side)
        z = section.height_mm
        rods = []
        # Collar bone: from the sternum's top, out and up to the shoulder.
        inner = (side * 20 * patient.size, -62 * patient.depth,
                 anatomy.z_of_level(patient, 9.9))
        outer = (shoulder[0] * 0.9, shoulder[1] - 8, shoulder[2] + 18)
        if min(inner[2], outer[2]) - 9 < z < max(inner[2], outer[2]) + 9:
            rods.append((inner, outer, 6.0 * patient.size))
        rods.append((shoulder, shoulder, 23.0 * patient.size))
        rods.append((shoulder, elbow, 11.5 * patient.size))
        for first, last, radius in rods:
            low, high = min(first[2], last[2]) - radius, max(first[2], last[2]) + radius
            if not low - 3 < z < high + 3:
                continue
            t = 0.0
            if first[2] != last[2]:
                t = np.clip((z - first[2]) / (last[2] - first[2]), 0, 1)
            middle = np.array(first) + t * (np.array(last) - first)
            reach = 1.2 * radius + abs(last[0] - first[0]) * min(
                1.0, 2 * radius / (abs(last[2] - first[2]) + 1e-3))
            place = window(section, middle[0], middle[1], reach)
            if place is None:
                continue
            near = crop(section, place)
            shape = rod(near.across, near.behind, near.z, first, last, radius)
            thick = hard['cortex_mm'] * (2.5 if radius < 15 * patient.size and
                                         first is shoulder else 1)
            value, share = bone(near, shape, **hard | {'cortex_mm': thick})
            paint(image[place], value, share)
        _paint_blade(section, image, side, shoulder, hard)


def arm_axis(patient, arms, side):
    """Shoulder, elbow and wrist in (across, behind, z), mm.

    Args:
        patient: Patient.
        arms: [6]: raised (0 or 1), levels the shoulder is higher, mm it is further
            out and behind, and how far the elbow is out and in front.
        side: -1 right, 1 left.
    """
    raised, up, out, behind, elbow_out, elbow_front = arms
    shoulder = np.array([
        side * (158 * patient.girth - 22 * raised + out), -8 + behind,
        anatomy.z_of_level(patient, 9.3 - 1.6 * raised - up)])
    away = np.array([side * (20 + elbow_out), -elbow_front, -270 * patient.size])
    if raised:
        away = np.array([side * (10 + elbow_out), -20 - elbow_front,
                         250 * patient.size])
    elbow = shoulder + away
    wrist = elbow + np.array([-side * 0.8 * elbow_out, -elbow_front, away[2] * 0.9])
    return shoulder, elbow, wrist


def _paint_blade(section, image, side, shoulder, hard):
    """The shoulder blade: a thin line behind the ribs with a crest and a socket."""
    patient = section.patient
    socket = shoulder + (-side * 24 * patient.size, 4, 0)
    tip = anatomy.z_of_level(patient, 14.5) + 0.4 * (
        shoulder[2] - anatomy.z_of_level(patient, 9.3))
    top = socket[2] + 22
    part = (section.height_mm - tip) / (top - tip)
    if not 0 < part < 1:
        return
    _, centre, radii = cage(section)
    back = centre[1] + radii[1] * 0.82 + 12
    medial = np.array([side * (62 + 18 * (1 - part)) * patient.size, back + 3])
    outward = min(1.0, part / 0.75)
    lateral = np.array([
        medial[0] + (socket[0] - medial[0]) * outward * 0.95,
        medial[1] + (socket[1] - medial[1]) * outward**1.5])
    strokes = [(medial, lateral, 2.6 + 0.8 * (part > .6)),
               (lateral, lateral, 5.5 + 6 * (part > 0.72))]
    if part > 0.7:  # the crest, which stands out to the back and to the tip of the arm
        root = medial + 0.5 * (lateral - medial)
        edge = root + np.array([side * 30, 24 * (part - 0.5)]) * patient.size
        strokes.append((root, edge, 4.0))
    middle = (medial + lateral) / 2
    place = window(section, *middle, 75 * patient.size)
    if place is None:
        return
    near = crop(section, place)
    shape = functools.reduce(np.minimum, [
        stroke(near, a, b, r * patient.size) for a, b, r in strokes])
    value, share = bone(near, shape, **hard)
    paint(image[place], value, share)


def paint_pelvis(section, image):
    """Iliac wings, and further down hip bones, thigh bones and the tail bone."""
    patient, level = section.patient, section.level
    if level < 22.5:
        return
    hard = dict(cortex_mm=1.3 * patient.cortex_mm, cortex_hu=patient.cortex_hu,
                spongy_hu=0.5 * patient.spongy_hu + 50)
    size = patient.size
    top = 23.2 + 0.5 * patient.organ[22]  # level of the crest
    down = level - top
    if down <= 0:
        return
    for side in (-1, 1):
        strokes = []
        if down < 6:
            grown = min(down / 1.4, 1.0)
            joint = np.array([side * (42 + 4 * max(2 - down, 0)), 24.0]) * size
            crest = np.array([side * 88, -8.0]) * size
            spine = np.array([side * (122 - 3 * max(down - 2, 0) ** 1.5),
                              -62 - 4 * down]) * size
            first = crest + (joint - crest) * grown
            last = crest + (spine - crest) * grown
            strokes += [(first, crest, 5.5 - grown), (crest, last, 4.5),
                        (first, first, 7.5 * grown), (last, last, 6.0 * grown)]
        if down > 4.2:
            socket = np.array([side * 88, -45.0]) * size
            strokes += [(socket, socket, 27.0 * min((down - 4.2) / 1.0, 1.0))]
        if down > 6.2:
            pubis = np.array([side * 12, -92.0]) * size
            strokes += [(socket - (side * 20, 0), pubis, 8.0),
                        (socket - (side * 18, -25), socket - (side * 22, -60), 9.0)]
            thigh = socket + (side * 55 * size, 12)
            strokes += [(socket, thigh, 16.0)]
        for a, b, r in strokes:
            place = window(section, *(a + b) / 2, np.hypot(*(a - b)) / 2 + 1.3 * r + 3)
            if place is None:
                continue
            near = crop(section, place)
            shape = stroke(near, a, b, r * size)
            value, share = bone(near, shape, **hard)
            paint(image[place], value, share)
    if 27.5 < level < 31:
        blob(section, image, patient.spongy_hu + 150, (0, 10), (12 * size, 6 * size))
