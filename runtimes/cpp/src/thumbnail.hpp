// A thumbnail in numbers: brightness and detail of a few cells, which predict complexity.
#pragma once

#include <vector>

#include "manifest.hpp"

namespace edgetok_impl {

// Mean and standard deviation of the grey levels of each cell, row by row, means first; bit for bit
// as Python's, which adds in NumPy's order. `pixels` are float [3, height, width] as the tower reads
// them, `cells` are those of a side; pixels beyond a multiple of it are left out.
std::vector<double> describe(const float* pixels, std::int64_t height, std::int64_t width, std::int64_t cells);

// The sum of a thumbnail's weights, its terms added in order; infinite where a number is not finite.
double complexity(const Thumbnail& thumbnail, const std::vector<double>& described);

}  // namespace edgetok_impl
