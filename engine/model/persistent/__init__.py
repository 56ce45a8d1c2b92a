"""The depth decoder of a whole frame as one kernel in CUDA C++, for few rows. Imported only where there is a GPU."""
