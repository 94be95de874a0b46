"""Organs of the chest and the neck in a slice: lungs, heart, vessels and airways."""

import numpy as np

from jaxmed.data.phantoms import ct_anatomy as anatomy
from jaxmed.data.phantoms.ct_shapes import blob, cover, grain, meet, oval, paint

# Levels at which the right and the left half of the diaphragm have their tops.
_DOMES = (16.0, 16.6)


def dome(section):
    """Height above the diaphragm, [H, W] mm: positive in the lungs."""
    patient, side = section.patient, section.organ_sign
    shift = 0.9 * patient.organ[0]
    heights = [float(anatomy.z_of_level(patient, level + shift)) for level in _DOMES]
    out = []
    for sign, top in zip((-side, side), heights):
        x = (section.across - np.float32(sign * 62 * patient.girth)) / 60
        y = (section.behind + np.float32(70 * patient.depth)) / 70
        out.append(section.z - np.float32(top) + 38 * (x * x + 0.8 * y * y))
    right = section.across * np.float32(side) < 0
    return np.where(right, *out)


def spine_wall(section, size):
    """Distance to the column of bone and muscle that the lungs leave free."""
    half, deep = (np.interp(section.level, range(5, 28), size_) for size_ in (
        section.patient.spine.half_width, section.patient.spine.half_depth))
    body = oval(section.across, section.behind, (0, -deep - 2 * size),
                (half + 5, deep + 16 * size), power=2.4)
    muscle = oval(section.across, section.behind, (0, 34 * size),
                  (48 * size, 27 * size))
    return np.minimum(body, muscle)


def paint_chest(section, image, contrast, distance, centre, radii):
    patient, side, level = section.patient, section.organ_sign, section.level
    organ, size, edge = patient.organ, patient.size, section.edge_mm
    inside = distance + 8 * patient.rib_size
    if level < 22:
        # Fat and vessels of the middle, later what is below the diaphragm.
        paint(image, 0.6 * patient.fat_hu + 25, cover(inside, edge))
    above = dome(section)
    # Widest in front of the spine's bodies, whose sides the lungs reach.
    half = np.interp(level, [7.5, 9, 11, 13, 16, 18], [24, 32, 33, 38, 44, 46])
    half = half * size * (1 + 0.2 * organ[1])
    front = centre[1] - radii[1]
    near = -26 * size
    middle = oval(section.across, section.behind, (4 * side, (front + near) / 2),
                  (half, (near - front) / 2 + 12), power=2.2)
    middle = middle + 4 * grain(section, 11.0, 4)
    heart = _heart(section)
    lung = meet(inside, -above, 8)
    lung = meet(lung, -middle, 8)
    lung = meet(lung, -spine_wall(section, size), 12)
    if heart is not None:
        lung = np.maximum(lung, 3 - heart)
    if level < 8.2:
        lung = lung + np.float32(30 * (8.2 - level))
    if level < 21:
        _fill_lungs(section, image, lung, centre, radii)
    if heart is not None:
        value = 38 + contrast[1] * 0.8 + 15 * grain(section, 12.0, 5)
        paint(image, value, cover(heart, edge))
    _paint_great_vessels(section, image, contrast)


def _fill_lungs(section, image, lung, centre, radii):
    patient, side, edge = section.patient, section.organ_sign, section.edge_mm
    share = cover(lung, edge)
    if not share.any():
        return
    fine, coarse = grain(section, 2.2, 4), grain(section, 9.0, 5)
    value = patient.lung_hu + 25 * fine + 30 * coarse
    # Blood sinks to the back.
    value = value + np.float32(40) * (section.behind - centre[1]) / radii[1]
    vessels = np.clip(2 * (fine + 0.3 * coarse - 1.35), 0, 1)
    root = np.exp(-((np.abs(section.across) - 45) / 30) ** 2
                  - ((section.behind + 35) / 30) ** 2)
    vessels = np.maximum(vessels, np.clip(2 * (grain(section, 4.5, 6) + 1.6 * root
                                               - 1.9), 0, 1))
    solid = np.clip(2 * (coarse * 0.7 + patient.solid_lung - 1.2
                         + (section.behind - centre[1]) / (2.5 * radii[1])), 0, 1)
    value = value + (40 - value) * np.maximum(vessels, solid * (
        patient.solid_lung > 0))
    paint(image, value, share)
    for depth, sign in zip(patient.effusion, (-side, side)):
        if depth > 3:
            fluid = np.maximum(lung, (centre[1] + radii[1] - 12 - depth)
                               - section.behind)
            fluid = np.maximum(fluid, -section.across * np.float32(sign))
            paint(image, patient.fluid_hu + 5, cover(fluid, edge))


def _heart(section):
    patient, side = section.patient, section.organ_sign
    organ, size = patient.organ, patient.size
    middle = anatomy.z_of_level(patient, 15.3 + 0.5 * organ[2])
    rise = (section.height_mm - middle) / (55 * size)
    if abs(rise) >= 1:
        return None
    bulge = np.sqrt(1 - rise**2) * size * (1 + 0.2 * organ[3])
    x = side * (18 + 18 * (rise < 0) * -rise)
    return oval(section.across, section.behind, (x, -85 * patient.depth),
                (62 * bulge, 46 * bulge), power=2.2)


def _paint_great_vessels(section, image, contrast):
    patient, side, level = section.patient, section.organ_sign, section.level
    organ, size = patient.organ, patient.size
    artery, vein = 42 + contrast[0], 40 + contrast[1]
    wide = size * (11.5 + 3.5 * organ[4]) * np.interp(level, [11, 18, 23], [1.1, 1, .7])
    front = -np.interp(level, range(5, 28), patient.spine.half_depth * 2) - 12
    if 10.8 < level < 23:
        # Beside the bodies in the chest, in front of them in the belly.
        place = (side * np.interp(level, [11, 17, 20, 23], [24, 16, 8, 6]) * size,
                 front + np.interp(level, [11, 16, 20], [8, 6, -wide - 1]))
        _tube(section, image, artery, place, wide)
    elif 23 <= level < 29:
        for sign in (-1, 1):
            out = sign * (10 + 11 * (level - 23)) * size
            _tube(section, image, artery, (out, front - 3 + 4 * (level - 23)), 6 * size)
            _tube(section, image, vein, (out * 1.05, front + 9 + 4 * (level - 23)),
                  6.5 * size)
    if 9.9 < level < 10.9:  # the arch
        for t in np.linspace(0, 1, 7):
            spot = (side * (-12 + 38 * t) * size,
                    front - 46 * (1 - t) * patient.depth + 4)
            _tube(section, image, artery, spot, 13 * size, calcium=t == 1)
    if 10.8 < level < 14:
        ahead = -85 * patient.depth
        _tube(section, image, artery, (-side * 14 * size, ahead), 15 * size)
        _tube(section, image, vein, (-side * 34 * size, ahead + 12), 9 * size)
        if 11.5 < level < 13:
            for x in (8, 24, 40):
                _tube(section, image, vein + 0.2 * contrast[0],
                      (side * x * size, ahead + 8 + x / 3), 12 * size)
    if 8 < level < 10.2:
        for x, y, r in ((-26, -52, 7), (24, -42, 5), (-6, -50, 5.5), (34, -62, 6.5)):
            _tube(section, image, artery if x != 34 else vein + contrast[0],
                  (side * x * size, y * size), r * size)
    if 16 < level < 23:
        _tube(section, image, vein, (-side * 20 * size, front - 6), 11 * size)
    # Windpipe, its branches and the gullet.
    if 7 < level < 12.2:
        blob(section, image, 40, (0, front - 14), (12 * size, 11 * size))
        blob(section, image, -990, (side * 1.0, front - 15), (9 * size, 8.5 * size))
    elif level < 13.6:
        out = 8 + 16 * (level - 12.2)
        for sign in (-1, 1):
            blob(section, image, -985, (sign * out * size, front - 14),
                 (8 * size, 6.5 * size))
    if 7 < level < 17.5:
        gullet = (side * 6 * size, front - 1)
        blob(section, image, 40, gullet, (9 * size, 6 * size))
        if organ[5] > 0.2:
            blob(section, image, -700, gullet, (4 * size, 2.5 * size))


def _tube(section, image, value, centre, radius, *, calcium=True):
    blob(section, image, value, centre, (radius, radius))
    hard = section.patient.calcium
    if calcium and hard > 0.15:
        # Plaques: bright crumbs on the wall.
        wave = np.sin(section.height_mm / 7 + section.patient.organ[6] * 9)
        angle = 2.5 * wave + section.patient.organ[7] * 3
        spot = (centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle))
        if wave > 0.9 - 1.6 * hard:
            blob(section, image, 300 + 900 * hard, spot, (
                0.8 + 2.0 * hard, 1.2 + 2.5 * hard))


def paint_throat(section, image, contrast):
    patient, level, size = section.patient, section.level, section.patient.size
    if level >= 9.5:
        return
    front = -np.interp(level, range(5, 28), patient.spine.half_depth * 2) - 12
    fade = 1.0 if level < 8.5 else 9.5 - level
    strands = grain(section, 6.0, 5)
    region = oval(
        section.across, section.behind, (0, front - 18), (44 * size, 26 * size))
    paint(image, 0.5 * patient.fat_hu + 30 * strands,
          0.8 * fade * cover(region, 6.0))
    for sign in (-1, 1):
        blob(section, image, patient.muscle_hu, (sign * 16 * size, front + 2),
             (13 * size, 6 * size))
        blob(section, image, 45 + contrast[0], (sign * 26 * size, front - 10),
             (4 * size, 4 * size))
        blob(section, image, 45 + contrast[1], (sign * 36 * size, front - 12),
             (6 * size, 5 * size))
        if level < 8:
            blob(section, image, 100 + 0.5 * contrast[2],  # thyroid gland
                 (sign * 16 * size, front - 20), (9 * size, 12 * size))
    blob(section, image, 45, (0, front - 4), (9 * size, 5 * size))
    blob(section, image, 50, (0, front - 18), (12 * size, 12 * size))
    blob(section, image, -990, (0, front - 18), (8.5 * size, 9 * size))
