"""Grids of launch.search: task -> name -> what makes it of a config."""

from configs import vertebral_fracture_grids

GRIDS = {'vertebral_fracture': vertebral_fracture_grids.GRIDS}
