"""`hvdm demo`: its help loads nothing of what it does."""

from launcher.run_options import DemoOptions


def demo(asked: DemoOptions) -> int:
    from launcher.demo import demo as shown

    return shown.demo(asked)
