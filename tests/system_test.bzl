"""Whole-system tests: a real daemon and real programs, as root."""

def system_test(name, srcs = None, deps = [], main = "@system//:gtest_main", **kwargs):
    """A test that has the machine to itself.

    Args:
      name: of the test, and of its source file unless `srcs` says otherwise.
      srcs: if there are more, or other ones.
      deps: besides :system_test and GoogleTest.
      main: @system//:gtest for a test that brings a main of its own.
      **kwargs: as of cc_test.
    """
    native.cc_test(
        name = name,
        srcs = srcs or [name + ".cc"],
        tags = [
            "exclusive",
            "local",
        ],
        deps = [":system_test", main] + deps,
        **kwargs
    )
