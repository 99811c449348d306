// How reports write numbers, the same in the terminal and on the page.
#pragma once

#include <cstdint>
#include <string>

namespace kvreplay {

std::string report_number(double value);               // "0.0834", "12.3", "3.1e-05", "–" for NaN
std::string report_interval(double low, double high);  // "0.0712 – 0.0955", "–" for NaN
std::string report_signed(double value);               // "+0.0312"
std::string report_percent(double share);              // "10 %", "2.5 %"
std::string report_count(std::int64_t count);          // "4,096"

// "Layer output error" within a sentence; "KL divergence" stays.
std::string lower_first(std::string title);

}  // namespace kvreplay
