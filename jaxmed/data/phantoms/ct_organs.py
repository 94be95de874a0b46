"""Soft tissue of a slice: skin, fat, muscle and the organs of the belly."""

import numpy as np

from jaxmed.data.phantoms import ct_anatomy as anatomy
from jaxmed.data.phantoms.ct_bones import arm_axis, cage
from jaxmed.data.phantoms.ct_chest import dome, paint_chest, paint_throat, spine_wall
from jaxmed.data.phantoms.ct_shapes import (
    blob,
    cover,
    crop,
    grain,
    meet,
    oval,
    paint,
    rod,
    window,
)

# The muscle wall by level: half width, front and back seen from the canal.
_WALL_LEVEL = (4, 5, 6.5, 7.5, 8.5, 9.5, 11, 13, 15, 17, 19, 20.5, 22, 23.5, 25, 27, 30)
_WALL = np.array([
    (52, 55, 60, 82, 110, 124, 133, 137, 138, 138, 136, 135, 134, 138, 150, 160, 168),
    (-58, -58, -62, -64, -72, -90, -116, -136, -145, -145, -140, -132, -125, -120,
     -114, -104, -92),
    (38, 40, 44, 46, 46, 46, 45, 44, 44, 47, 52, 56, 58, 56, 52, 50, 58)], float)


def wall(section):
    """Centre (across, behind) and radii of the outer surface of the muscles."""
    patient = section.patient
    half, front, back = (
        np.interp(section.level, _WALL_LEVEL, row) for row in _WALL)
    half = half * patient.girth + 8 * (patient.organ[21] - patient.lost_muscle + 0.5)
    front = front * patient.depth
    back = back * patient.size * (1 - 0.15 * patient.lost_muscle)
    # Skin is flatter than the spine: muscles fill the hollow of the loin.
    hollow = -0.6 * (section.canal[1] - patient.canal.y_mm.mean())
    back = back + np.clip(hollow, -3, 25)
    front = front + np.clip(hollow, -25, 25) * np.clip((section.level - 16) / 4, 0, 1)
    return (0.0, (front + back) / 2), (half, (back - front) / 2)


def measure_shadow(section, arms):
    """Water, in mm, that a ray passes from side to side at the spine; about."""
    _, radii = wall(section)
    patient, level = section.patient, section.level
    # Lungs hold little; shoulders and arms are beside the neck or the trunk.
    lungs = np.interp(level, [8, 10.5, 16, 19.5], [0, 120, 120, 0]) * patient.girth
    if arms[0]:
        beside = np.interp(level, [8, 10, 11], [250, 80, 0])
    else:
        beside = np.interp(level, [6.5, 8, 9, 17, 22, 26], [0, 120, 160, 140, 70, 20])
    return 1.97 * (radii[0] + patient.fat_mm) - lungs + beside * patient.size


def paint_trunk(section, image, arms):
    """Skin, fat and muscle of trunk and arms on air."""
    patient = section.patient
    centre, radii = wall(section)
    wave = 3 * grain(section, 40.0, 2)
    inner = oval(section.across, section.behind, centre, radii, power=2.5) + wave
    belly = patient.belly_mm * np.interp(section.level, [13, 18, 25], [0.2, 1, 0.7])
    fat = patient.fat_mm
    outer_centre = (0.0, centre[1] - (belly + fat - patient.back_fat_mm) / 2)
    outer_radii = (radii[0] + fat + 2, radii[1] + 2 + (
        belly + fat + patient.back_fat_mm) / 2)
    outer = oval(section.across, section.behind, outer_centre, outer_radii, power=2.4)
    # The furrow over the spine, and the flat of the back on the table.
    back = centre[1] + radii[1] + patient.back_fat_mm + 2
    furrow = 6 * np.exp(-(section.across / 14) ** 2) * (section.behind > 0)
    outer = np.maximum(outer + furrow, section.behind - np.float32(0.97 * back))
    outer = np.maximum(outer, inner - 120)
    edge = section.edge_mm
    strands = 0.6 * grain(section, 5.0, 3) + 0.6 * grain(section, 1.8, 4)
    lost = np.float32(patient.lost_muscle)
    muscle = patient.muscle_hu + (patient.fat_hu - patient.muscle_hu) * np.clip(
        0.9 * lost + 0.25 * strands - 0.35, 0, 0.85)
    fat_value = patient.fat_hu + 8 * strands + 60 * np.clip(strands - 2, 0, 1)
    limb, core = _limbs(section, arms)
    if limb is not None:
        outer, inner = np.minimum(outer, limb), np.minimum(inner, core)
    paint(image, patient.muscle_hu - 10, cover(outer, edge))
    paint(image, fat_value, cover(outer + 2.2, edge))
    paint(image, muscle, cover(np.maximum(inner, outer + 2), edge))
    return outer


def _limbs(section, arms):
    """Distances to skin and muscle of shoulders and arms; None where there are none."""
    patient = section.patient
    limb = core = None
    for side in (-1, 1):
        shoulder, elbow, wrist = arm_axis(patient, arms, side)
        z = section.height_mm
        for first, last, radius in ((shoulder, elbow, 43.0), (elbow, wrist, 34.0),
                                    ((0.75 * shoulder[0], shoulder[1], shoulder[2]),
                                     shoulder, 52.0)):
            low, high = min(first[2], last[2]) - 60, max(first[2], last[2]) + 60
            if not low < z < high:
                continue
            muscle = rod(section.across, section.behind, section.z, first, last,
                         radius * patient.size * (1 - 0.25 * patient.lost_muscle))
            skin = muscle - np.float32(3 + 0.6 * patient.fat_mm)
            limb = skin if limb is None else np.minimum(limb, skin)
            core = muscle if core is None else np.minimum(core, muscle)
    return limb, core


def paint_inside(section, image, contrast):
    """Lungs, mediastinum and the organs of the belly.

    Args:
        section: Section.
        image: float32 [H, W], HU; painted on.
        contrast: [4] HU added by contrast medium in arteries, veins and organs, and in
            the bowel (0: none).

    Returns:
        Distance to the cage of the ribs [H, W] and its centre, for the ribs.
    """
    distance, centre, radii = cage(section)
    if section.level > 7:
        paint_chest(section, image, contrast, distance, centre, radii)
    if section.level > 14:
        _paint_belly(section, image, contrast, distance, centre, radii)
    if section.level < 9.5:
        paint_throat(section, image, contrast)
    _paint_back(section, image)
    return distance, centre


def _paint_belly(section, image, contrast, distance, centre, radii):
    patient, side, level = section.patient, section.organ_sign, section.level
    organ, size, edge = patient.organ, patient.size, section.edge_mm
    depth, girth = patient.depth, patient.girth
    middle, outer = wall(section)
    thin = (11 + 9 * (1 - patient.lost_muscle)) * size
    cavity = oval(section.across, section.behind, middle,
                  (outer[0] - thin, outer[1] - thin), power=2.4)
    # Behind it the spine's muscles, and where ribs are they bound it.
    back = section.behind - np.float32(12 * size) + 0.25 * np.maximum(
        30 - np.abs(section.across), 0)
    cavity = meet(cavity, back, 45)
    if level < 20:
        cavity = np.maximum(cavity, distance + 9 * patient.rib_size)
    below = dome(section) if level < 21 else None
    if level > 23:
        # The bowl of the pelvis, between the iliac wings and their muscles.
        deep = np.interp(level, [23, 25, 29, 33], [20, 45, 30, 10])
        bowl = oval(section.across, section.behind, (0, -130 * depth + deep),
                    (np.interp(level, [23, 25, 28, 31], [150, 108, 78, 62]) * size,
                     130 * depth))
        cavity = np.maximum(cavity, bowl)
    if below is not None:
        cavity = np.maximum(cavity, below)
        if not (cavity < 0).any():
            return
    share = cover(cavity, edge)
    if level < 24:
        free = np.maximum(cavity, -spine_wall(section, size))
        share = cover(free, edge)
    strands = grain(section, 5.0, 6)
    fat = patient.fat_hu + 8 * strands + 70 * np.clip(strands - 1.5, 0, 1)
    paint(image, fat, share)
    _paint_bowel(section, image, contrast, share)

    def organ_blob(value, x, y, z_level, rx, ry, rz, channel, spread):
        rise = (section.height_mm - anatomy.z_of_level(patient, z_level)) / rz
        if abs(rise) >= 1:
            return
        bulge = np.sqrt(1 - rise * rise)
        place = window(section, side * x * girth, y * depth, 1.3 * max(rx, ry) + 8)
        if place is None:
            return
        near = crop(section, place)
        lumps = 1 + 0.1 * grain(section, 18.0, channel, place=place)
        shape = oval(near.across, near.behind, (side * x * girth, y * depth),
                     (rx * bulge, ry * bulge), power=2.3) * lumps
        texture = value + spread * grain(section, 3.0, channel, place=place)
        inner = share[place]
        paint(image[place], texture, cover(shape, edge) * inner)

    parenchyma = contrast[2]
    liver = 55 + 30 * organ[8] + 0.8 * parenchyma
    organ_blob(50 + parenchyma + 10 * organ[9], 95 + 8 * organ[9], -35, 18.2, 45 * size,
               55 * size, 62 * size, 4, 6)
    organ_blob(liver, -62, -65 + 8 * organ[10], 18 + 0.6 * organ[0], 105 * size,
               85 * size, 95 * size, 3, 7)
    organ_blob(liver, 10, -105, 17.8 + 0.6 * organ[0], 75 * size, 36 * size, 48 * size,
               3, 7)
    if organ[11] > -0.6:
        organ_blob(12, -50, -105, 20.3, 20 * size, 17 * size, 26 * size, 5, 3)
    organ_blob(35, 62 + 10 * organ[12], -88, 18.5, 45 * size, 36 * size, 52 * size,
               5, 10)
    if organ[13] > -0.2 and 16.8 < level < 20:
        full = (1 + organ[13]) / 2
        blob(section, image, -960, (side * 60 * girth, -104 * depth),
             (30 * full * size, 12 * full * size))
    organ_blob(40 + 0.8 * parenchyma, 8, -62, 20.2, 62 * size, 13 * size, 18 * size,
               2, 8)
    for sign, z_level in ((-1, 21.0 + 0.5 * organ[14]), (1, 20.5 + 0.5 * organ[14])):
        if organ[15] < -0.93 and sign > 0:
            continue
        x, y = sign * (62 + 5 * organ[16]), -28 + 6 * organ[17]
        bright = 33 + 1.5 * parenchyma
        organ_blob(bright, x, y, z_level, 29 * size, 33 * size, 55 * size, 6, 5)
        organ_blob(patient.fat_hu + 30, x - sign * 14, y - 4, z_level, 16 * size,
                   11 * size, 26 * size, 6, 20)
        if contrast[3] > 0 and organ[18] > 0:
            organ_blob(300 + 600 * organ[18], x - sign * 8, y - 3, z_level, 8 * size,
                       6 * size, 22 * size, 6, 20)
    if level > 27:
        full = size * (36 + 18 * organ[19])
        organ_blob(8 + (contrast[3] > 0) * 200 * max(organ[18], 0), 0, -75, 30, full,
                   0.8 * full, 60, 5, 2)


def _paint_bowel(section, image, contrast, share):
    """Loops: walls where noise changes sign, and in them gas, fluid or contrast."""
    patient = section.patient
    room = np.clip(np.float32(0.15) * (-section.behind - np.float32(
        42 * patient.depth)), 0, 1) * share
    if section.level < 18.5:
        room = room * np.float32(np.clip(section.level - 17.5, 0, 1))
    if not room.any():
        return
    loops = grain(section, 11.0, 7) + 0.1 * patient.organ[20]
    fill = grain(section, 26.0, 5)
    wall_share = np.clip(3 * (loops + 0.2), 0, 1) * room
    paint(image, 38 + 0.4 * contrast[2], wall_share)
    inner = np.clip(4 * (loops - 0.55), 0, 1) * room
    gas = np.clip(8 * (fill - 1.4 + 1.9 * patient.bowel_gas - 0.004 * (
        section.behind + 90)), 0, 1)
    stool = -120 * np.clip(grain(section, 2.0, 4), 0, 2) * (fill < 0)
    value = 20 + stool + contrast[3] * np.clip(1 - 2 * fill, 0, 1)
    paint(image, value, inner)
    paint(image, -960, inner * gas)


def _paint_back(section, image):
    """Muscles along the spine: behind the arches, and the psoas beside the bodies."""
    patient, level, size = section.patient, section.level, section.patient.size
    lost = patient.lost_muscle
    strands = 18 * grain(section, 3.5, 3) * (0.3 + lost)
    centre, radii = wall(section)
    back = centre[1] + radii[1]
    if 5 < level < 27:
        wide = np.interp(level, [5, 9, 14, 20, 23, 27], [24, 27, 25, 34, 35, 24]) * size
        deep = (back - 8 * size) / 2
        # Fat lies between it and the arches, and in the furrow.
        value = patient.muscle_hu - 5 + strands
        value = value + (patient.fat_hu - value) * np.clip(
            1.1 * lost - 0.45 + 0.3 * grain(section, 2.6, 2), 0, 0.9)
        for sign in (-1, 1):
            middle = (sign * (wide + 3), 8 * size + deep)
            place = window(section, *middle, 1.2 * max(wide, deep) + 4)
            if place is None:
                continue
            near = crop(section, place)
            shape = oval(near.across, near.behind, middle, (wide, deep), power=2.5)
            shape = shape + 1.5 * grain(section, 9.0, 3, place=place)
            paint(image[place], patient.fat_hu + 20, (0.15 + 0.75 * lost) * cover(
                shape - 2, section.edge_mm))
            paint(image[place], value[place], cover(shape + 0.5, section.edge_mm))
        paint(image, patient.fat_hu + 30, 0.6 * cover(np.maximum(
            np.abs(section.across) - 2, np.abs(section.behind - back + 10) - 9), 2))
    if 19.5 < level < 28:
        wide = np.interp(level, [19.5, 21, 24, 28], [5, 12, 21, 17]) * size
        wide *= 1 - 0.4 * lost
        half = np.interp(level, range(5, 28), patient.spine.half_width)
        shift = np.interp(level, [20, 24, 28], [0, 3, 35])
        for sign in (-1, 1):
            middle = (sign * (half + 0.8 * wide + shift), -12 * size - 1.5 * max(
                level - 24, 0) * 12)
            blob(section, image, patient.muscle_hu + 5, middle, (wide, 1.15 * wide))
            if level < 24:  # the square muscle of the loin, beside the processes
                blob(section, image, patient.muscle_hu, (sign * 60 * size, 5 * size),
                     (22 * size, (6 + 7 * (1 - lost)) * size))
