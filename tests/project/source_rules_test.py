#!/usr/bin/env python3
"""Does every source rule catch what it forbids, and nothing else?"""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import source_rules

HEADER = "#pragma once\n"


class SourceRules(unittest.TestCase):
    def problems(self, files):
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
                with open(os.path.join(root, name), "w", encoding="utf-8") as file:
                    file.write(text)
            return source_rules.check(root)

    def forbids(self, name, text, words):
        found = self.problems({name: text})
        self.assertEqual(len(found), 1, found)
        self.assertIn(words, found[0])

    def allows(self, name, text):
        self.assertEqual(self.problems({name: text}), [])

    def test_core_sees_neither_gpu_nor_gui_nor_programs(self):
        for folder in ("gpu", "gui", "trace_tools"):
            self.forbids("core/replay/x.cpp", f'#include "{folder}/y.h"\n', f"core/ may not include {folder}/")
        self.forbids("gui/x.cpp", '#include "trace_tools/command.h"\n', "gui/ may not include trace_tools/")
        self.allows("trace_tools/x.cpp", '#include "core/trace/trace.h"\n#include "gui/figure/figure.h"\n')

    def test_lower_parts_of_core_do_not_know_higher_ones(self):
        self.forbids("core/trace/x.cpp", '#include "core/replay/replay.h"\n', "core/trace may not include core/replay")
        self.allows("core/replay/x.cpp", '#include "core/trace/trace.h"\n')

    def test_hdf5_stays_in_core_trace(self):
        self.forbids("core/replay/x.cpp", "#include <hdf5.h>\n", "core/trace/ only")
        self.forbids("trace_tools/x.cpp", "#include <H5Fpublic.h>\n", "core/trace/ only")
        self.allows("core/trace/x.cpp", "#include <hdf5.h>\n")

    def test_no_cuda_type_in_a_public_header(self):
        self.forbids("core/replay/x.h", HEADER + "void f(cudaStream_t stream);\n", "CUDA")
        self.forbids("core/replay/x.h", HEADER + "#include <cuda_runtime.h>\n", "CUDA")
        self.allows("core/replay/x.h", HEADER + "// what a cudaStream_t is to the other backend\n")
        self.allows("gpu/x.cuh", HEADER + "void f(cudaStream_t stream);\n")
        self.forbids("gpu/cuda.h", HEADER + "void f(cudaStream_t stream);\n", "CUDA")
        self.allows("gpu/device.h", HEADER + "void f(cudaStream_t stream);\n")

    def test_programs_see_the_public_headers_of_gpu_alone(self):
        self.forbids("trace_tools/x.cpp", '#include "gpu/device.h"\n', "trace_tools/ may include of gpu/ gpu/cuda.h")
        self.allows("trace_tools/x.cpp", '#include "gpu/cuda.h"\n')
        self.allows("tests/gpu/x.cpp", '#include "gpu/device.h"\n')

    def test_figures_need_no_widgets(self):
        self.forbids("gui/figure/x.cpp", "#include <QWidget>\n", "no widgets")
        self.forbids("gui/figure/x.cpp", '#include "gui/window.h"\n', "stands alone")
        self.forbids("gui/figure/x.cpp", '#include "gui/figure_kinds/kind.h"\n', "stands alone")
        self.forbids("gui/figure_kinds/x.cpp", '#include "gui/window/panel.h"\n', "no window")
        self.allows("gui/figure_kinds/x.cpp", '#include "gui/figure/figure.h"\n')
        self.forbids("trace_tools/x.cpp", "#include <QImage>\n", "gui/ only")
        self.allows("gui/figure/x.cpp", "#include <QImage>\n#include <QPainter>\n")

    def test_the_library_is_silent(self):
        self.forbids("gpu/x.cu", 'printf("x");\n', "never prints")
        self.allows("gpu/benchmarks/x.cu", 'printf("x");\n')
        for text in ('std::cout << 1;', 'printf("x");', "std::exit(1);", "abort();", 'std::fprintf(stderr, "x");'):
            self.forbids("core/base/x.cpp", text + "\n", "never prints")
        self.allows("core/base/x.cpp", 'std::snprintf(buffer, 8, "x");\n// printf("x");\n')
        self.allows("trace_tools/x.cpp", 'std::printf("x");\n')

    def test_headers_have_a_guard(self):
        self.forbids("core/base/x.h", "int f();\n", "#pragma once")

    def test_files_are_short(self):
        self.forbids("core/base/x.cpp", "\n" * 801, "801 lines")
        self.allows("core/base/x.cpp", "\n" * 800)

    def test_nothing_unfinished_and_no_machine_paths(self):
        self.forbids("README.md", "TO" + "DO: say more\n", "unfinished")
        self.forbids("trace_tools/x.sh", "cd /ho" + "me/me/kvreplay\n", "a path of one machine")
        self.allows("README.md", "tests/wo" + "rk/ and https://example.org/wo" + "rk/\n")

    def test_a_part_is_one_file_and_one_line(self):
        for table, folder, definition in source_rules.REGISTRIES:
            with self.subTest(table):
                file, body = f"{folder}/some.cpp", f"X& some{definition} {{}}\n"
                self.assertEqual(self.problems({table: "LINE(some)\n", file: body}), [])
                self.assertIn("not listed", self.problems({table: "\n", file: body})[0])
                self.assertIn("other has no", self.problems({table: "LINE(some)\nLINE(other)\n", file: body})[0])


if __name__ == "__main__":
    unittest.main()
