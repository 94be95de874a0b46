"""Grids of launch.search: task -> name -> what makes it of a config."""

from configs import spine_health_grids, vertebral_fracture_grids

GRIDS = {
    'spine_health': spine_health_grids.GRIDS,
    'vertebral_fracture': vertebral_fracture_grids.GRIDS,
}
