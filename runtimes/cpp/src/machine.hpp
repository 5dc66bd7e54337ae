// Facts about this machine. Linux; elsewhere unknown.
#pragma once

#include <cstdint>

namespace edgetok_impl {

// Cores that this process may use; two hardware threads of one core count once.
int physical_cores();

// As many as asked for, one per core when 0; throws Error(usage) beyond the limits.
int pick_threads(int threads);

// Whether products of uint8 and int8 overflow on this processor; see edgetok/overflow.py.
bool overflows_in_int8();

// Memory that a new allocation could get; -1 where unknown.
std::int64_t available_bytes();

// Memory that this process occupies, mapped weights included, each page counted once; -1: unknown.
std::int64_t resident_bytes();

}  // namespace edgetok_impl
