"""Archives for tests of compute packages."""

import io
import tarfile


def archive(path, files, mode="w:gz", **member):
    """An archive with `files`, {name: text}, and one more member of which tarfile's fields are given."""
    with tarfile.open(path, mode) as made:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text.encode()), 0o4777
            made.addfile(info, io.BytesIO(text.encode()))
        if member:
            info = tarfile.TarInfo()
            for key, value in member.items():
                setattr(info, key, value)
            made.addfile(info, io.BytesIO(b"x" * info.size))
    return path
