// The tables of manifest.json.
#pragma once

#include "bundle/schema.hpp"

namespace edgetok_impl {

const Schema& manifest_schema();
const Schema& encoder_schema();  // of a manifest that names a task

}  // namespace edgetok_impl
