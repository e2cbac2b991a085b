"""Measurements kept between analyses, so that an unchanged run is not read again.

An entry is used only if what lies on the disk is what was measured (`trajfile.cache.stamp`), or if
the run has since gained commits behind those that were measured (`trajfile.cache.growth`).
"""
