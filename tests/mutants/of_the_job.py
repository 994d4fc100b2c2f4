"""Breaks of the client's job, from the finding of inputs to the manifest."""

from __future__ import annotations

from mutant import Mutant

_CLIENT = "saliency_client"


def _mutant(name: str, file: str, old: str, new: str, test: str) -> Mutant:
    return Mutant(name, f"bulk/{file}", old, new, test, _CLIENT)


MUTANTS = (
    # What is to be done.
    _mutant(
        "a folder's hidden files are explained",
        "plan.py",
        'if name.startswith("."):',
        'if name.startswith("~"):',
        "test_bulk_plan.py::test_a_folder_gives_the_pictures_below_it_sorted_by_name_without_hidden_ones",
    ),
    _mutant(
        "a linked folder is entered each time",
        "plan.py",
        "if folder.identity in entered:",
        "if folder.address in entered:",
        "test_bulk_plan.py::test_links_are_what_they_lead_to_and_no_folder_is_entered_twice",
    ),
    _mutant(
        "a pattern that matches nothing is no input",
        "plan.py",
        "            if not matches:\n",
        "            if matches is None:\n",
        "test_bulk_plan.py::test_a_pattern_gives_its_matches_and_one_that_matches_nothing_is_refused",
    ),
    _mutant(
        "paths of a list count from where the job runs",
        "plan.py",
        'path = f"{beside}/{text}" if relative else text',
        "path = text",
        "test_bulk_plan.py::test_a_list_names_images_whatever_their_suffix_and_paths_count_from_its_folder",
    ),
    _mutant(
        "the last row group of a file is left out",
        "plan.py",
        "if rows >= shard_rows or number == len(sizes) - 1:",
        "if rows >= shard_rows:",
        "test_bulk_plan.py::test_row_groups_go_together_up_to_a_shard",
    ),
    _mutant(
        "rows of later groups are numbered from 0",
        "plan.py",
        "first, rows, before = number + 1, 0, before + rows",
        "first, rows, before = number + 1, 0, 0",
        "test_bulk_plan.py::test_row_groups_go_together_up_to_a_shard",
    ),
    _mutant(
        "the last pictures of a plan are no unit",
        "plan.py",
        "        if pictures:\n            yield Unit(number, tuple(pictures))\n\n",
        "",
        "test_bulk_plan.py::test_pictures_are_grouped_into_shards_and_files_of_many_stand_alone",
    ),
    _mutant(
        "a unit has a picture more than a shard",
        "plan.py",
        "if len(pictures) < self.shard_rows:",
        "if len(pictures) <= self.shard_rows:",
        "test_bulk_plan.py::test_pictures_are_grouped_into_shards_and_files_of_many_stand_alone",
    ),
    _mutant(
        "a plan of other inputs is kept",
        "plan.py",
        "left_behind = place.exists() and Plan(place, 1).of() != of",
        "left_behind = False",
        "test_bulk_plan.py::test_a_plan_that_is_there_stays_and_one_of_something_else_is_replaced",
    ),
    _mutant(
        "a plan without an image is written",
        "plan.py",
        "if not count:",
        "if count < 0:",
        "test_bulk_plan.py::test_a_plan_of_nothing_is_refused_and_not_written",
    ),
    # What is read.
    _mutant(
        "a tar is read from its front again",
        "sources/tar.py",
        "if number < start:",
        "if number < 0:",
        "test_bulk_sources.py::test_reading_a_tar_from_a_number_on_gives_the_rest",
    ),
    _mutant(
        "every member of a tar is kept",
        "sources/tar.py",
        "tar.members.clear()  # type: ignore[attr-defined]",
        "pass",
        "test_job_sources_memory.py::test_a_tar_is_read_without_keeping_its_members",
    ),
    _mutant(
        "a TFRecord's checksum of data is not looked at",
        "sources/tfrecord.py",
        'if len(footer) < 4 or masked(payload) != struct.unpack("<I", footer)[0]:',
        "if len(footer) < 4:",
        "test_bulk_tfrecord.py::test_a_byte_that_changed_is_found_by_the_checksums_of_a_tfrecord",
    ),
    _mutant(
        "a TFRecord's checksum of lengths is not looked at",
        "sources/tfrecord.py",
        'if len(header) < 12 or masked(header[:8]) != struct.unpack("<I", header[8:])[0]:',
        "if len(header) < 12:",
        "test_bulk_tfrecord.py::test_a_byte_that_changed_is_found_by_the_checksums_of_a_tfrecord",
    ),
    _mutant(
        "a damaged file ends the job",
        "pipeline.py",
        "    except Damaged as error:\n",
        "    except ZeroDivisionError as error:\n",
        "test_cli_job.py::test_a_damaged_file_of_many_images_gives_what_is_whole_and_one_row_that_says_so",
    ),
    # How it is asked about, and what a row says.
    _mutant(
        "the largest half overflows",
        "stored_maps.py",
        "math.frexp(largest)[1] - 1",
        "math.frexp(largest)[1] - 18",
        "test_bulk_maps.py::test_float16_gives_each_value_back_to_11_bits_of_it_or_25_of_the_largest",
    ),
    _mutant(
        "levels are cut and not rounded",
        "stored_maps.py",
        "np.rint(np.clip(values / np.float32(scale), 0, _BRIGHTEST))",
        "np.floor(np.clip(values / np.float32(scale), 0, _BRIGHTEST))",
        "test_bulk_maps.py::test_uint8_and_png_give_each_value_back_to_half_a_step_of_255",
    ),
    _mutant(
        "signs are lost in a picture",
        "stored_maps.py",
        "if values.ndim != 2 or values.min(initial=0.0) < 0:",
        "if values.ndim != 2:",
        "test_bulk_maps.py::test_signs_and_channels_are_refused_where_they_would_be_lost",
    ),
    _mutant(
        "a row has no version",
        "rows.py",
        'row["version"] = explanation.version',
        "pass",
        "test_bulk_step.py::test_rows_say_what_explain_says",
    ),
    _mutant(
        "a row has its error's place alone",
        "rows.py",
        'row["error"] = described(result.error)',
        'row["error"] = ""',
        "test_cli_job.py::test_an_image_that_cannot_be_explained_has_its_error_in_its_row",
    ),
    _mutant(
        "another version's answers are taken",
        "asking.py",
        "if explanation is not None and self.version not in (None, explanation.version):",
        "if False:",
        "test_cli_job.py::test_another_version_in_mid_run_is_refused_and_mixes_when_that_is_asked_for",
    ),
    _mutant(
        "a server that is away fails its images",
        "asking.py",
        "    return isinstance(error, _PASSES)",
        "    return False",
        "test_cli_job.py::test_a_server_that_is_away_for_a_while_or_full_costs_no_row",
    ),
    _mutant(
        "an image that ends the server's call takes its neighbours with it",
        "asking.py",
        "    return isinstance(error, ServerError)",
        "    return False",
        "test_cli_job.py::test_an_image_that_ends_the_servers_call_each_time_is_found_and_the_others_are_explained",
    ),
    _mutant(
        "what is refused from the first image on goes on",
        "asking.py",
        "if not self._taken and self._refused >= _REFUSED_FROM_THE_START:",
        "if False:",
        "test_cli_job.py::test_what_the_server_refuses_from_the_first_image_on_is_no_images_fault",
    ),
    _mutant(
        "a few that are all refused are their own fault",
        "job.py",
        "        if result is not None and isinstance(result.error, (InvalidArgument, ServerError)):\n"
        "            raise result.error\n",
        "        pass\n",
        "test_cli_job.py::test_a_few_images_that_are_all_refused_stop_the_job_too",
    ),
    _mutant(
        "a batch waits for the answer to the one before it",
        "pipeline.py",
        "room = len(window) < self._most and (self._held < _MOST_HELD or not window)",
        "room = len(window) < 1",
        "test_bulk_pipeline.py::test_as_many_requests_are_under_way_as_asked_and_no_more_is_read_than_is_ahead",
    ),
    # What is done, and stays so.
    _mutant(
        "a job that goes on begins each unit anew",
        "job.py",
        "yield from images_of(unit, self.job.fields, self.job.shard_rows, len(chunks))",
        "yield from images_of(unit, self.job.fields, self.job.shard_rows, 0)",
        "test_job_object_store.py::test_a_job_on_s3_goes_on_where_a_shard_and_its_record_were_lost",
    ),
    _mutant(
        "a job that goes on asks about all again",
        "job.py",
        "chunks = done.get(unit.number, [])",
        "chunks = []",
        "test_cli_job.py::test_a_job_that_is_done_has_nothing_left_to_do",
    ),
    _mutant(
        "a worker does the others' units too",
        "job.py",
        "if unit.number % count == index and not (chunks and chunks[-1].last):",
        "if not (chunks and chunks[-1].last):",
        "test_cli_job.py::test_two_workers_share_a_job_and_the_last_one_writes_the_manifest",
    ),
    _mutant(
        "a shard behind a gap counts",
        "shards.py",
        "if (one.unit, one.chunk) not in without and one.chunk == len(chunks):",
        "if (one.unit, one.chunk) not in without:",
        "test_cli_job.py::test_files_of_a_tar_behind_one_that_is_gone_are_made_again_too",
    ),
    _mutant(
        "a file that is gone is not missed",
        "shards.py",
        "return [one for one in done if one.file is not None and sizes.get(one.file) != one.bytes]",
        "return []",
        "test_cli_job.py::test_a_shard_whose_file_is_gone_is_made_again",
    ),
    _mutant(
        "the manifest is written before all is done",
        "job.py",
        "complete = all(ended)",
        "complete = True",
        "test_cli_job.py::test_two_workers_share_a_job_and_the_last_one_writes_the_manifest",
    ),
    _mutant(
        "rows with errors are not made anew",
        "job.py",
        "again = [one for one in done if self.job.redo_failed and one.failed]",
        "again: list[Done] = []",
        "test_cli_job.py::test_files_with_errors_are_made_anew_when_that_is_asked_for",
    ),
    _mutant(
        "another job goes on in the folder of one",
        "job.py",
        'if name == "version" or was == now:',
        "if True:",
        "test_cli_job.py::test_another_job_is_not_written_into_the_folder_of_one",
    ),
    _mutant(
        "a job is written over one that is there",
        "job.py",
        "if not job.resume and done_shards(out):",
        "if False:",
        "test_cli_job.py::test_another_job_is_not_written_into_the_folder_of_one",
    ),
    _mutant(
        "two processes work on one share",
        "job.py",
        "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "test_cli_job.py::test_one_process_at_a_time_works_on_a_share",
    ),
    _mutant(
        "a shard that could not be written stays half",
        "storage.py",
        "            with suppress(FileNotFoundError):\n                part.unlink()\n            if handle",
        "            if handle",
        "test_cli_job.py::test_a_disk_that_is_full_stops_the_job_and_what_is_done_stays",
    ),
    _mutant(
        "what a killed job left of a store's file stays",
        "job.py",
        "        remove_temporary_parts()\n",
        "",
        "test_job_object_store.py::test_a_job_that_is_killed_leaves_no_temporary_file_behind_the_one_that_goes_on",
    ),
    _mutant(
        "a file that another job writes is removed",
        "storage.py",
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "test_job_object_store.py::test_a_job_that_is_killed_leaves_no_temporary_file_behind_the_one_that_goes_on",
    ),
    _mutant(
        "a store's error is that of the picture behind it",
        "pictures.py",
        "self._check_others(error)",
        "pass",
        "test_job_object_store.py::test_a_job_whose_credentials_end_stops_and_goes_on_with_new_ones[inputs-folder]",
    ),
    # How far it is.
    _mutant(
        "rows that were done before count as fast as those of now",
        "job.py",
        "return max(0, self.planned - self.before - self.rows) / self.rate",
        "return max(0, self.planned - self.rows) / self.rate",
        "test_job_progress.py::test_rows_rate_and_time_left_are_one_line",
    ),
    _mutant(
        "a tar's rows are judged by its first batch alone",
        "job.py",
        "self.bytes_read += waiting.read - read",
        "self.bytes_read = waiting.read - read",
        "test_bulk_plan.py::test_rows_of_files_that_are_not_counted_are_judged_by_what_has_been_read",
    ),
    _mutant(
        "rows above the target are not counted",
        "job.py",
        "progress.above_target += 1",
        "pass",
        "test_cli_job.py::test_maps_that_did_not_reach_the_target_are_counted",
    ),
)
