// Admission of graphs: what must hold before a session is made of one.
#pragma once

#include <map>
#include <string>

#include "bundle/manifest.hpp"

namespace edgetok_impl {

// Checks that a graph does what the manifest says and reads nothing else.
//
// `files` are the manifest's, whose names are safe paths and whose sizes were checked. Throws
// Error(bundle) naming the file and the first problems.
void admit_graph(const std::string& data, const Stage& stage, const std::map<std::string, File>& files);

}  // namespace edgetok_impl
