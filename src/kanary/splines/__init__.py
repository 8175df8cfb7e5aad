"""Learnable functions of one variable: bases on grids, and how grids move and functions stay plain."""

from kanary.splines.bases import BASES, make_basis
from kanary.splines.basis import Basis
from kanary.splines.grid import GridUpdate, fit, grid_of, percentiles, refit, update_grid
from kanary.splines.penalties import roughness, total_variation

__all__ = [
    "BASES",
    "Basis",
    "GridUpdate",
    "fit",
    "grid_of",
    "make_basis",
    "percentiles",
    "refit",
    "roughness",
    "total_variation",
    "update_grid",
]
