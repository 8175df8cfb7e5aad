"""Learnable functions of one variable: bases on grids, how grids move and functions stay plain, and what they are called."""

from kanary.splines.bases import BASES, make_basis
from kanary.splines.basis import Basis
from kanary.splines.grid import GridUpdate, fit, grid_of, percentiles, refit, update_grid
from kanary.splines.penalties import roughness, total_variation
from kanary.splines.symbolic import SymbolicFit, SymbolicFits, census
from kanary.splines.symbolic import fit as symbolic_fit

__all__ = [
    "BASES",
    "Basis",
    "GridUpdate",
    "SymbolicFit",
    "SymbolicFits",
    "census",
    "fit",
    "grid_of",
    "make_basis",
    "percentiles",
    "refit",
    "roughness",
    "symbolic_fit",
    "total_variation",
    "update_grid",
]
