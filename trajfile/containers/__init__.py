"""How trajectories are stored: HDF5, Zarr v3 and memory, behind one protocol."""
