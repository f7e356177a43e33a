"""Which paths and which filesystems may hold a journal."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import pytest

from durable._journal.filesystem import (
    canonical_journal_path,
    check_filesystem,
    journal_file,
    mount_of,
    parse_mountinfo,
)
from durable.errors import JournalError, UnsafeFilesystemError

# As in /proc/self/mountinfo: 10 is the root, the others lie on it unless they say otherwise.
MOUNTS = r"""
10 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
11 10 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw
12 10 0:6 / /proc rw,nosuid - proc proc rw
13 10 0:7 / /tmp rw - tmpfs tmpfs rw
14 10 8:2 / /vol rw shared:3 master:1 - xfs /dev/sda2 rw
15 14 0:31 /@vol /vol/b rw - btrfs /dev/sdb1 rw,subvol=/@vol
16 10 0:32 / /pool rw - zfs tank/data rw
17 10 0:33 / /f2fs rw - f2fs /dev/mmcblk0p1 rw
18 10 0:34 / /usb rw - vfat /dev/sdc1 rw
19 10 0:35 / /usb2 rw - exfat /dev/sdc2 rw
20 10 0:36 / /win rw - fuseblk /dev/sda3 rw
21 10 0:37 / /ntfs rw - ntfs3 /dev/sda4 rw
22 10 0:38 / /container rw - overlay overlay rw,lowerdir=/l
23 10 0:39 / /rootless rw - fuse.fuse-overlayfs fuse-overlayfs rw
24 10 0:40 / /crypt rw - fuse.gocryptfs /vol/c rw
25 10 0:41 / /nfs3 rw - nfs server:/export rw
26 10 0:42 / /nfs rw - nfs4 server:/export rw
27 10 0:43 / /cifs rw - cifs //server/share rw
28 10 0:44 / /smb rw - smb3 //server/share rw
29 10 0:45 / /plan9 rw - 9p hostshare rw
30 10 0:46 / /virtiofs rw - virtiofs hostshare rw
31 10 0:47 / /vbox rw - vboxsf share rw
32 10 0:48 / /vmware rw - fuse.vmhgfs-fuse vmhgfs-fuse rw
33 10 0:49 / /docker rw - fakeowner /run/host_mark/Users rw
34 10 0:50 / /docker2 rw - fuse.grpcfuse grpcfuse rw
35 10 0:51 / /mnt/c rw - drvfs C: rw
36 10 0:52 / /sshfs rw - fuse.sshfs me@host: rw
37 10 0:53 / /s3 rw - fuse.s3fs s3fs rw
38 10 0:54 / /rclone rw - fuse.rclone remote: rw
39 10 0:55 / /odd rw - fuse.somethingnew odd rw
40 10 0:56 / /odd2 rw - fuse odd rw
41 10 0:57 / /ceph rw - ceph mon:/ rw
42 10 0:58 / /lustre rw - lustre mgs:/fs rw
43 10 0:59 / /gluster rw - fuse.glusterfs host:/vol rw
44 10 0:60 / /afs rw - afs none rw
45 10 0:61 / /with\040blank\011tab\134slash rw - nfs4 server:/export\040two rw
46 14 0:62 / /vol/b/remote rw - nfs4 server:/hidden rw
47 10 0:63 / /twice rw - nfs4 server:/below rw
48 47 8:3 / /twice rw - ext4 /dev/sdd1 rw
49 10 0:64 / /over/deep rw - nfs4 server:/covered rw
50 10 8:4 / /over rw - ext4 /dev/sdd2 rw
51 10 8:5 / /data rw - ext4 /dev/sdd3 rw
52 51 0:65 / /data/app.db rw - virtiofs hostshare rw
53 10 8:6 / /again rw - ext4 /dev/sdd4 rw
54 10 0:66 / /again rw - nfs4 server:/newest rw
"""

SAFE = [
    "/srv/app.db",  # the root
    "/tmp/app.db",
    "/vol/app.db",
    "/vol/b/app.db",  # a child mount of a child mount
    "/vol/bob/app.db",  # /vol/b is no directory above it
    "/vol/b/remote/app.db",  # a mount hidden below the btrfs mounted over its parent
    "/pool/app.db",
    "/f2fs/app.db",
    "/usb/app.db",
    "/usb2/app.db",
    "/win/app.db",
    "/ntfs/app.db",
    "/container/app.db",
    "/rootless/app.db",
    "/crypt/app.db",
    "/nfs.db",  # a file of the root whose name begins like a mount point
    "/nfsdata/app.db",
    "/twice/app.db",  # the newest mount over a point counts
    "/over/deep/app.db",  # hidden by the later mount over its parent
    "/data/other.db",
]
UNSAFE = {
    "/nfs3/app.db": "network",
    "/nfs/a/b/c/app.db": "network",
    "/cifs/app.db": "network",
    "/smb/app.db": "network",
    "/plan9/app.db": "shared with the host",
    "/virtiofs/app.db": "shared with the host",
    "/vbox/app.db": "shared with the host",
    "/vmware/app.db": "shared with the host",
    "/docker/app.db": "shared with the host",
    "/docker2/app.db": "shared with the host",
    "/mnt/c/app.db": "shared with the host",
    "/sshfs/app.db": "network",
    "/s3/app.db": "object store",
    "/rclone/app.db": "object store",
    "/odd/app.db": "FUSE filesystem of unknown kind",
    "/odd2/app.db": "FUSE filesystem of unknown kind",
    "/ceph/app.db": "cluster",
    "/lustre/app.db": "cluster",
    "/gluster/app.db": "cluster",
    "/afs/app.db": "network",
    "/with blank\ttab\\slash/app.db": "network",
    "/data/app.db": "shared with the host",  # the file itself is the mount point
    "/again/app.db": "network",
    "file:/nfs/app.db?vfs=unix": "network",
}


# --- filesystems --------------------------------------------------------------------


@pytest.mark.parametrize("path", SAFE)
def test_local_filesystems_are_accepted(path: str) -> None:
    """Disks of this machine pass, whatever is mounted elsewhere."""
    check_filesystem(path, mountinfo=MOUNTS)


@pytest.mark.parametrize("path", UNSAFE)
def test_unsafe_filesystems_are_refused_with_reason_and_cure(path: str) -> None:
    """The error says where, what, why, and what to do."""
    with pytest.raises(UnsafeFilesystemError) as caught:
        check_filesystem(path, mountinfo=MOUNTS)
    message = str(caught.value)
    assert path in message
    assert UNSAFE[path] in message
    assert "local disk" in message
    assert "allow_unsafe_filesystem=True" in message


def test_unsafe_filesystem_is_accepted_when_allowed_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who knows better may, but it stands in the log."""
    with caplog.at_level(logging.WARNING, logger="durable"):
        check_filesystem("/nfs/app.db", mountinfo=MOUNTS, allow_unsafe=True)
    assert "nfs4" in caplog.text


def test_a_platform_without_mount_table_accepts_every_path() -> None:
    """Where nothing is known nothing is refused."""
    check_filesystem("/nfs/app.db", mountinfo="")


def test_the_filesystem_of_the_tests_is_accepted(tmp_path: Path) -> None:
    """The real table of this machine is readable."""
    check_filesystem(str(tmp_path / "app.db"))


def test_lines_of_an_unknown_shape_are_left_out() -> None:
    """A table that the kernel extends some day does not stop anyone."""
    lines = ["", "garbage", "x y 0:1 / / rw - ext4 a b", "1 2 0:1 / / rw - ", "1 2 3 - ext4 a"]
    assert parse_mountinfo("\n".join(lines)) == []


def test_a_root_that_is_its_own_parent_is_found() -> None:
    """Some tables show the initial root that way."""
    table = "1 1 0:1 / / rw - rootfs none rw\n2 1 8:1 / / rw - ext4 /dev/sda rw\n"
    mount = mount_of("/app.db", parse_mountinfo(table))
    assert mount is not None
    assert mount.kind == "ext4"


def test_a_path_on_no_listed_mount_has_none() -> None:
    """In a chroot the root need not be a mount point."""
    assert mount_of("/app.db", parse_mountinfo("5 4 0:1 / /proc rw - proc proc rw")) is None


# --- names --------------------------------------------------------------------------


def test_all_ways_to_name_a_file_give_one_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symbolic links, dots and relative paths end at the same name."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "app.db").touch()
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "app.link").symlink_to(real / "app.db")
    monkeypatch.chdir(tmp_path)
    names: list[str | Path] = [
        "real/app.db",
        "./real/../real//app.db",
        tmp_path / "link" / "app.db",
        "app.link",
    ]
    assert {canonical_journal_path(name) for name in names} == {str(real / "app.db")}


def test_a_link_to_a_journal_that_does_not_exist_yet_is_followed(tmp_path: Path) -> None:
    """The journal is created where the link points."""
    (tmp_path / "app.link").symlink_to(tmp_path / "new.db")
    assert canonical_journal_path(tmp_path / "app.link") == str(tmp_path / "new.db")


def test_a_uri_keeps_its_parameters_and_gets_a_canonical_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the path part changes; blanks and question marks in names survive."""
    monkeypatch.chdir(tmp_path)
    root = str(tmp_path)
    assert canonical_journal_path("file:a.db?vfs=unix&x=1") == f"file:{root}/a.db?vfs=unix&x=1"
    assert canonical_journal_path(f"file://{root}/a.db") == f"file:{root}/a.db"
    assert canonical_journal_path(f"file://localhost{root}/a.db#f") == f"file:{root}/a.db"
    odd = canonical_journal_path("file:a%20b%3f.db?mode=rwc")
    assert journal_file(odd) == f"{root}/a b?.db"


def test_sqlite_opens_the_file_that_a_canonical_uri_means(tmp_path: Path) -> None:
    """Our reading of a URI is SQLite's."""
    uri = canonical_journal_path(f"file:{tmp_path}/a%20b%3f%25.db?mode=rwc")
    connection = sqlite3.connect(uri, uri=True)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert os.path.isfile(journal_file(uri))


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("", "empty"),
        ("file:", "empty"),
        (":memory:", "in memory"),
        ("file::memory:", "in memory"),
        ("file:name?mode=memory&cache=shared", "in memory"),
        ("a\0b", "NUL"),
        ("file://server/app.db", "'server'"),
        ("/no/such/directory/app.db", "no directory /no/such/directory"),
        ("/", "directory"),
        ("/dev/null", "not a regular file"),
        (b"app.db", "bytes"),
    ],
)
def test_what_cannot_be_a_journal_is_refused_by_name(path: str, word: str) -> None:
    """The error names the value and the cause."""
    with pytest.raises(JournalError, match=word):
        canonical_journal_path(path)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """A journal is a file."""
    with pytest.raises(JournalError, match="is a directory: name a file in it"):
        canonical_journal_path(tmp_path)


def test_a_file_with_two_hard_links_is_refused(tmp_path: Path) -> None:
    """Each name would get a WAL of its own."""
    (tmp_path / "app.db").touch()
    os.link(tmp_path / "app.db", tmp_path / "other.db")
    with pytest.raises(JournalError, match="2 hard links"):
        canonical_journal_path(tmp_path / "other.db")


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    """There is no file at its end."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(JournalError):
        canonical_journal_path(tmp_path / "a")
