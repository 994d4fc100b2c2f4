"""Breaks of the gallery and of the live page's fields, in Python and in their scripts."""

from __future__ import annotations

from mutant import Mutant

_CLIENT = "saliency_client"
_PAGE = "test_gallery_page.py"
_COMMAND = "test_gallery_command.py"
_LIVE = "test_live_page_in_browser.py"


def _script(name: str, old: str, new: str, test: str, *, file: str = "gallery.js") -> Mutant:
    return Mutant(name, f"web/static/{file}", old, new, test, _CLIENT)


def _page(name: str, file: str, old: str, new: str, test: str) -> Mutant:
    return Mutant(name, file, old, new, test, _CLIENT)


_SEARCH = f"{_PAGE}::test_a_search_takes_each_word_from_name_label_or_truth_however_it_is_written"
_AGAIN = f"{_PAGE}::test_a_photo_that_is_found_again_keeps_its_element_in_its_new_place"
_SIGHT = f"{_PAGE}::test_a_filter_draws_what_is_in_sight_and_a_row_more_when_that_is_there"
_TALLER = f"{_PAGE}::test_a_taller_window_leaves_no_gap"
_CLOSED = f"{_PAGE}::test_a_panel_that_closes_leaves_no_gap"
_ALIKE = f"{_PAGE}::test_photos_alike_stand_as_given_and_those_without_the_number_come_last"
_COLORS = f"{_PAGE}::test_a_map_has_the_colors_that_explain_gives_it"
_PRINTED = (
    f"{_COMMAND}::test_the_printed_command_makes_the_maps_of_the_page_whichever_version_is_the_newest[none]"
)
_REACHES = (
    "test_cli_gallery.py::test_the_command_of_the_page_has_what_reaches_the_server_and_decides_the_maps"
)
_BOUNDS = f"{_LIVE}::test_a_field_has_the_default_the_step_and_the_bounds_that_the_model_tells"
_REFUSED = "test_live_page.py::test_a_value_outside_its_bounds_is_refused_before_the_model_gets_an_image"

MUTANTS = (
    # A search.
    _script("a search heeds capitals in names", '.join("\\n").toLowerCase();', '.join("\\n");', _SEARCH),
    _script(
        "a search heeds capitals in what is asked",
        "asked.words.toLowerCase().split",
        "asked.words.split",
        _SEARCH,
    ),
    _script(
        "a name of two lines is two names",
        'texts.map((one) => one.replaceAll("\\n", " ")).join',
        "texts.join",
        _SEARCH,
    ),
    _script("a match is of the text behind it", "found.push(line - 1);", "found.push(line);", _SEARCH),
    _script(
        "a text is found once a page",
        "line < starts.length ? text.indexOf(word, starts[line]) : -1",
        "-1",
        _SEARCH,
    ),
    _script("truths are not searched", "if (truths.has(photo.truth) || ", "if (", _SEARCH),
    _script("labels are not searched", "labels.has(one.label)", "false", _SEARCH),
    _script("one word of a search is enough", "wanted.every((fits)", "wanted.some((fits)", _SEARCH),
    # Tiles that stay, and come back.
    _script(
        "a tile that is still found is made anew",
        "const kept = [before, spare].find",
        "const kept = [spare].find",
        _AGAIN,
    ),
    _script(
        "a tile that was taken away is made anew",
        "const kept = [before, spare].find",
        "const kept = [before].find",
        _AGAIN,
    ),
    _script("a tile stays where it was", "      putTile(tile, place);\n", "", _AGAIN),
    _script(
        "a tile of another method is kept",
        "JSON.stringify(look), asked.method, numbers.includes",
        "JSON.stringify(look), numbers.includes",
        _AGAIN,
    ),
    _script(
        "a tile comes back without its colors",
        "      if (kept === spare) tile.view.setLook(tileLook());\n",
        "",
        f"{_PAGE}::test_a_tile_that_comes_back_has_its_colors_though_many_others_were_used_since",
    ),
    # What is drawn, and when.
    _script(
        "rows beyond sight are drawn at once", "const beyond = anew ? 0 : 1;", "const beyond = 1;", _SIGHT
    ),
    _script(
        "a height that the grid gives itself lays it out again",
        "if (measure()) fill(true);",
        "fill(measure());",
        _SIGHT,
    ),
    _script("rows beyond sight are never drawn", "mine === waiting && work()", "false && work()", _SIGHT),
    _script(
        "a taller window stays empty below",
        'addEventListener("resize", () => requestAnimationFrame(() => fill(false)), { passive: true });',
        "",
        _TALLER,
    ),
    _script(
        "a panel that closes leaves a gap",
        "String(!filters.hidden));\n    fill(false);\n",
        "String(!filters.hidden));\n",
        _CLOSED,
    ),
    # Orders.
    _script(
        "photos alike are turned with the order",
        "turn * (keys[one] - keys[other]) || one - other",
        "turn * (keys[one] - keys[other] || one - other)",
        f"{_ALIKE}[True]",
    ),
    _script(
        "of what is not known the number is 0",
        "(photo) => key(photo) ?? NaN);",
        "(photo) => key(photo) ?? 0);",
        f"{_ALIKE}[False]",
    ),
    _script(
        "an order is kept for the other direction too",
        ", asked.down].join();",
        "].join();",
        f"{_ALIKE}[True]",
    ),
    _script(
        "an order is kept for another method too",
        'numbers.includes(asked.sort) ? asked.method : "", asked.down].join();',
        "asked.down].join();",
        f"{_PAGE}::test_filters_and_sorting",
    ),
    # Colors.
    _script(
        "weak maps are too strong",
        "levels(index).reduce((one, other) => one + other) / 2)",
        "levels(index).reduce((one, other) => one + other))",
        f"{_COLORS}[True-Over photo-False]",
        file="viewer.js",
    ),
    _script(
        "a map's alpha is of another level",
        "[2 * index - 256, 2 * index - 255]",
        "[2 * index - 240, 2 * index - 239]",
        f"{_COLORS}[True-Over photo-False]",
        file="viewer.js",
    ),
    # The command below a photo.
    _script(
        "a command asks for the newest version",
        'shared.includes("--local") ? [] : ["--version", String(version)]',
        'true ? [] : ["--version", String(version)]',
        _PRINTED,
    ),
    _script(
        "maps of two versions have one command",
        "version = data.version] of one.maps",
        "version = data.version] of one.maps.map((row) => row.slice(0, 5))",
        f"{_COMMAND}::test_maps_of_two_versions_have_a_command_each",
    ),
    _page(
        "a page does not know the version that answered",
        "cli/gallery_run.py",
        'clip=clip, version=facts["version"]',
        "clip=clip",
        _PRINTED,
    ),
    _page(
        "a command cuts a photo that was stretched",
        "cli/gallery_run.py",
        '    words += ["--resize", options.resize] if options.resize != "crop" else []\n',
        "",
        _PRINTED,
    ),
    _page(
        "a command has other parameters",
        "cli/gallery_run.py",
        "return words + _drawing_words(options) + _parameter_words(options.parameters)",
        "return words + _drawing_words(options)",
        _PRINTED,
    ),
    _page(
        "a command leaves the authority out",
        "cli/gallery_run.py",
        'files = {"--ca": connection.ca, "--cert"',
        'files = {"--cert"',
        _REACHES,
    ),
    _page(
        "what is left out is not said",
        "cli/gallery_run.py",
        'return server + (["--metadata"] if connection.metadata else [])',
        "return server",
        _REACHES,
    ),
    _page(
        "a socket of the machine is in the page",
        "cli/gallery_run.py",
        'words += [] if is_path(server) else ["--server", server]',
        'words += ["--server", server]',
        "test_cli_gallery.py::test_a_server_that_is_a_file_of_the_machine_is_left_out_of_the_page",
    ),
    _page(
        "of files it is not known how photos were cut",
        "cli/gallery_run.py",
        '    about.command += ["--resize", resize] if resize not in (None, "crop") else []\n',
        "",
        "test_cli_gallery.py::test_of_files_the_command_has_what_they_were_made_with",
    ),
    # Bounds in the live page.
    _script("a field has no greatest value", ", max: field.most", "", _BOUNDS, file="live.js"),
    _script("a field has no least value", " min: field.least,", "", _BOUNDS, file="live.js"),
    _script(
        "whole numbers have a step of any size",
        'step: field.kind === "whole" ? 1 : "any"',
        'step: "any"',
        _BOUNDS,
        file="live.js",
    ),
    _script(
        "a field's range is not said",
        'field.range ? sentence(field.range) : ""',
        '""',
        _BOUNDS,
        file="live.js",
    ),
    _script(
        "a refused field is not marked",
        '      input.setAttribute("aria-invalid", "true");\n',
        "",
        _BOUNDS,
        file="live.js",
    ),
    _page(
        "the model is asked with a value outside its bounds",
        "web/live/forms.py",
        "        check(signature, name, numbers[name])\n",
        "",
        _REFUSED,
    ),
    _page(
        "the model is asked for a class that it has not",
        "web/live/explaining.py",
        "        forms.check(signature, forms.CLASS, class_index)\n",
        "        pass\n",
        _REFUSED,
    ),
    _page(
        "a bound that is not told is 0",
        "web/live/forms.py",
        'return f"at least {low}" if low is not None',
        'return f"from {low} to 0" if low is not None',
        "test_live_page.py::test_fields_have_the_bounds_that_the_model_tells",
    ),
    _page(
        "slices sum up to more than one call may take",
        "web/live/forms.py",
        "        check(signature, name, numbers[name])\n",
        "",
        "test_live_page_of_local_server.py::test_what_slices_sum_up_to_is_what_one_call_may_take",
    ),
)
