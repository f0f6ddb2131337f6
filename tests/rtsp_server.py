"""An RTSP server for tests, run by the system's Python, which alone has GStreamer's bindings. Serves ``/cam``.

Usage: /usr/bin/python3 rtsp_server.py PORT [WIDTH HEIGHT FPS [PATTERN [ADDRESS]]]. Prints ``ready`` once it listens. With
``switch`` as PATTERN the picture shrinks to half its size two seconds into the stream; with a path like
``/pictures/%05d.jpg`` those are shown, again and again.
"""

import ctypes
import signal
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PR_SET_PDEATHSIG = 1
CAPS = "video/x-raw,width={},height={},framerate={}/1"
ENCODE = (
    "x264enc tune=zerolatency speed-preset=ultrafast threads=1 key-int-max=15"
    " ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96"
)


def main() -> None:
    # Nothing of a test may stay behind, not even when the test itself was killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    port = sys.argv[1]
    width, height, fps = (int(v) for v in (sys.argv[2:5] or (320, 240, 15)))
    pattern = sys.argv[5] if len(sys.argv) > 5 else "ball"
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address(sys.argv[6] if len(sys.argv) > 6 else "127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    caps = CAPS.format(width, height, fps)
    if "/" in pattern:
        show = f"multifilesrc location={pattern} loop=true caps=image/jpeg,framerate={fps}/1 ! jpegdec ! videoconvert ! videoscale"
    else:
        show = f"videotestsrc is-live=true pattern={'ball' if pattern == 'switch' else pattern}"
    factory.set_launch(f"( {show} ! capsfilter name=size caps={caps} ! {ENCODE} )")
    factory.set_shared(True)
    if pattern == "switch":
        half = CAPS.format(width // 2, height // 2, fps)
        factory.connect("media-configure", lambda _, media: GLib.timeout_add(2000, shrink, media, half))
    server.get_mount_points().add_factory("/cam", factory)
    if not server.attach(None):
        sys.exit(f"cannot listen on port {port}")
    print("ready", flush=True)
    GLib.MainLoop().run()


def shrink(media: GstRtspServer.RTSPMedia, caps: str) -> bool:
    media.get_element().get_by_name("size").set_property("caps", Gst.Caps.from_string(caps))
    return False


if __name__ == "__main__":
    main()
