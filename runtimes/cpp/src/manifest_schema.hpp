// The tables of manifest.json.
#pragma once

#include "schema.hpp"

namespace edgetok_impl {

const Schema& manifest_schema();

}  // namespace edgetok_impl
