"""Raw files in exactly the formats in which they are offered, small; and the k-core filter against a naive loop."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.importers import ImportConfig, Imported, import_amazon, import_movielens, run_import
from genrec.data.importers.writing import k_core
from genrec.data.interactions import Interactions
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_folder


def lines(path: Path, rows: list[Any], write: Any = json.dumps) -> Path:
    data = "".join(write(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def items_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "items.jsonl").read_text(encoding="utf-8").splitlines()]


def log_of(out: Path) -> list[str]:
    return (out / "interactions.csv").read_text().splitlines()


def review_2014(user: str, item: str, time: int, rating: float = 5.0) -> dict[str, Any]:
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": "A. \u201cB\u201d",
        "helpful": [3, 4],
        "reviewText": 'Very oily and creamy.\nNot at all "what" I expected, {really}.',
        "overall": rating,
        "summary": "Don't waste your money",
        "unixReviewTime": time,
        "reviewTime": "01 30, 2014",
    }


META_2014 = [
    {
        "asin": "7806397051",
        "description": "WAWO 15 Color &amp; Cream<br />Camouflage.  Brand new",
        "title": "WAWO 15 Color Professionl Makeup Eyeshadow",
        "price": 4.11,
        "imUrl": "http://ecx.images-amazon.com/images/I/41.jpg",
        "related": {"also_bought": ["B0014", "B0020"], "bought_together": ["B0014"]},
        "salesRank": {"Beauty": 2232},
        "brand": "",
        "categories": [["Beauty", "Makeup", "Face"], ["Beauty", "Concealers & Neutralizers"]],
    },
    {"asin": "B000", "title": 'It\'s a "Comb"', "categories": [["Beauty"]], "brand": "O'Kay"},
    {"asin": "B000", "title": "A second line of the same item", "categories": [["Beauty"]]},
    {"asin": "B999", "title": "Nobody bought it", "categories": [["Beauty"]]},
]


def test_amazon_2014(tmp_path: Path) -> None:
    reviews = [
        review_2014("A2", "B000", 1391040000),
        review_2014("A1", "7806397051", 1391126400, 1.0),
        review_2014("A1", "B000", 1391040000),
        review_2014("A1", "B000", 1391040000, 4.0),
        review_2014("A1", "BMISSING", 1391040000),
    ]
    raw = lines(tmp_path / "reviews_Beauty.json.gz", reviews)
    # The metadata of 2014 are printed Python dictionaries, not JSON.
    meta = lines(tmp_path / "meta_Beauty.json.gz", META_2014, repr)
    imported = import_amazon(raw, meta, tmp_path / "out", year=2014, k_core=0)
    assert imported == Imported(users=2, items=4, events=4, repeated=1, outside_core=0, without_metadata=1)
    assert items_of(tmp_path / "out") == [
        {
            "item_id": "7806397051",
            "title": "WAWO 15 Color Professionl Makeup Eyeshadow",
            "categories": ["Beauty", "Makeup", "Face", "Concealers & Neutralizers"],
            "description": "WAWO 15 Color & Cream Camouflage. Brand new",
            "price": 4.11,
        },
        {"item_id": "B000", "title": 'It\'s a "Comb"', "brand": "O'Kay", "categories": ["Beauty"]},
        {"item_id": "B999", "title": "Nobody bought it", "categories": ["Beauty"]},
        {"item_id": "BMISSING", "title": ""},
    ]
    assert log_of(tmp_path / "out") == [
        "user_id,item_id,timestamp,rating",
        "A2,B000,1391040000,5.0",
        "A1,B000,1391040000,5.0",
        "A1,BMISSING,1391040000,5.0",
        "A1,7806397051,1391126400,1.0",
    ]
    catalog = Catalog.from_file(tmp_path / "out" / "items.jsonl")
    assert Interactions.from_file(tmp_path / "out" / "interactions.csv", catalog).time_unit == "days"
    check_folder(tmp_path / "out", hashes=True)


def test_amazon_2018(tmp_path: Path) -> None:
    review = {
        "overall": 4.0,
        "vote": "25",
        "verified": True,
        "reviewTime": "12 19, 2008",
        "reviewerID": "APYOBQE6M18AA",
        "asin": "0615391206",
        "style": {"Format:": " Kindle Edition"},
        "reviewerName": "Martin Schwartz",
        "reviewText": "My daughter wanted this book",
        "summary": "Best Price",
        "unixReviewTime": 1229644800,
        "image": ["https://images-na.ssl-images-amazon.com/images/I/71.jpg"],
    }
    bare = {"overall": 5, "reviewerID": "A2", "asin": "B01", "unixReviewTime": 1229644800, "verified": False}
    meta = [
        {
            "category": ["Industrial &amp; Scientific", "Janitorial", "Janitorial"],
            "tech1": "",
            "description": ["<b>Loud</b> bell.", "", "Two parts."],
            "fit": "",
            "title": "Loud &#39;Bell",
            "also_buy": [],
            "tech2": "",
            "brand": "Bells &amp; Co",
            "feature": ["Loud", "Steel<br>"],
            "rank": ["123 in"],
            "also_view": [],
            "main_cat": "Industrial & Scientific",
            "similar_item": "",
            "date": "",
            "price": "$1,299.50",
            "asin": "0615391206",
        },
        {
            "category": [],
            "title": "var aPageStart = (new Date()).getTime();",
            "price": "$3.00 - $9.00",
            "asin": "B01",
            "rank": "1",
        },
    ]
    raw = lines(tmp_path / "All_Beauty.json.gz", [review, bare])
    imported = import_amazon(raw, lines(tmp_path / "meta.json.gz", meta), tmp_path / "out", year=2018, k_core=1)
    assert imported == Imported(users=2, items=2, events=2, repeated=0, outside_core=0, without_metadata=0)
    assert items_of(tmp_path / "out") == [
        {
            "item_id": "0615391206",
            "title": "Loud 'Bell",
            "brand": "Bells & Co",
            "categories": ["Industrial & Scientific", "Janitorial"],
            "description": "Loud bell. Two parts.",
            "features": ["Loud", "Steel"],
            "price": 1299.5,
        },
        {"item_id": "B01", "title": ""},
    ]
    assert log_of(tmp_path / "out")[1:] == ["APYOBQE6M18AA,0615391206,1229644800,4.0", "A2,B01,1229644800,5.0"]


def test_amazon_2023(tmp_path: Path) -> None:
    def review(user: str, asin: str, parent: str, time: int) -> dict[str, Any]:
        return {
            "rating": 5.0,
            "title": "Such a lovely scent",
            "text": "This spray is really nice.<br />",
            "images": [{"small_image_url": "https://m.media-amazon.com/images/I/1.jpg"}],
            "asin": asin,
            "parent_asin": parent,
            "user_id": user,
            "timestamp": time,
            "helpful_vote": 0,
            "verified_purchase": True,
        }

    reviews = [
        review("AGKH", "B00Y", "B00X", 1588687728923),
        review("AGKH", "B00Z", "B00W", 1588687728150),
        review("AGKH", "B00Y2", "B00X", 1588687728923),
    ]
    meta = [
        {
            "main_category": "All Beauty",
            "title": "Howard LC0008 Leather Conditioner",
            "average_rating": 4.8,
            "rating_number": 10,
            "features": ["Soft"],
            "description": [],
            "price": None,
            "images": {"hi_res": [None], "large": ["u"]},
            "videos": {"title": [], "url": [], "user_id": []},
            "store": "Howard Products",
            "categories": [],
            "details": {"Package Dimensions": "7.1 x 5.5", "UPC": "617390882781"},
            "parent_asin": "B00X",
            "bought_together": None,
        },
        {
            "title": "Oil",
            "details": {"Brand": "Yes"},
            "store": "S",
            "price": "12.5",
            "categories": ["A", "B"],
            "parent_asin": "B00W",
        },
    ]
    raw, extra = lines(tmp_path / "All_Beauty.jsonl.gz", reviews), lines(tmp_path / "meta_All_Beauty.jsonl", meta)
    imported = import_amazon(raw, extra, tmp_path / "out", year=2023, k_core=0)
    assert imported == Imported(users=1, items=2, events=2, repeated=1, outside_core=0, without_metadata=0)
    assert items_of(tmp_path / "out") == [
        {
            "item_id": "B00X",
            "title": "Howard LC0008 Leather Conditioner",
            "brand": "Howard Products",
            "categories": ["All Beauty"],
            "features": ["Soft"],
        },
        {"item_id": "B00W", "title": "Oil", "brand": "Yes", "categories": ["A", "B"], "price": 12.5},
    ]
    catalog = Catalog.from_file(tmp_path / "out" / "items.jsonl")
    log = Interactions.from_file(tmp_path / "out" / "interactions.csv", catalog)
    assert (log.time_unit, log.times.tolist()) == ("seconds", [1588687728, 1588687728])
    assert log.histories[0].tolist() == [1, 0]  # milliseconds order what seconds cannot

    ratings = tmp_path / "All_Beauty.csv"
    ratings.write_text(
        "user_id,parent_asin,rating,timestamp\nAGKH,B00X,5.0,1588687728923\nAGKH,B00W,5.0,1588687728150\n"
    )
    import_amazon(ratings, extra, tmp_path / "ratings", year=2023, k_core=0)
    assert (tmp_path / "ratings" / "items.jsonl").read_bytes() == (tmp_path / "out" / "items.jsonl").read_bytes()
    assert (tmp_path / "ratings" / "interactions.csv").read_bytes() == (
        tmp_path / "out" / "interactions.csv"
    ).read_bytes()


def test_k_core_drops_items_and_events_and_counts_them(tmp_path: Path) -> None:
    pairs = ["1a", "1b", "2a", "2b", "3a", "3c", "4c"]
    reviews = [review_2014(user, item, 1391040000) for user, item in pairs]
    meta = [{"asin": item, "title": item.upper()} for item in "cba"]
    raw, extra = lines(tmp_path / "r.json", reviews), lines(tmp_path / "m.json", meta, repr)
    imported = import_amazon(raw, extra, tmp_path / "out", year=2014, k_core=2)
    assert imported == Imported(users=2, items=2, events=4, repeated=0, outside_core=3, without_metadata=0)
    assert [item["item_id"] for item in items_of(tmp_path / "out")] == ["b", "a"]
    with pytest.raises(InputError, match="--k_core 9: no event is left of 7"):
        import_amazon(raw, extra, tmp_path / "none", year=2014, k_core=9)
    assert not (tmp_path / "none").exists()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))), st.integers(0, 4))
def test_k_core_against_a_naive_loop(events: list[tuple[int, int]], k: int) -> None:
    left = list(enumerate(events))
    changed = True
    while changed:
        users, items = [u for _, (u, _) in left], [i for _, (_, i) in left]
        staying = [(n, (u, i)) for n, (u, i) in left if users.count(u) >= k and items.count(i) >= k]
        changed, left = len(staying) < len(left), staying
    array = np.asarray(events, dtype=np.int64).reshape(-1, 2)
    assert np.flatnonzero(k_core(array[:, 0], array[:, 1], k)).tolist() == [n for n, _ in left]


GOOD_REVIEWS = [review_2014("A1", "B000", 1391040000)]
BAD_AMAZON: dict[str, tuple[bytes, bytes, str]] = {
    "reviews not JSON": (b"{'asin': 'B000'}\n", repr(META_2014[1]).encode(), "reviews.json: row 1 is not JSON"),
    "no user": (
        b'{"asin": "B000", "overall": 1, "unixReviewTime": 1}\n',
        b"{'asin': 'B000'}\n",
        "1 row without reviewerID, first at row 1",
    ),
    "no time": (
        b'{"asin": "B000", "overall": 1, "reviewerID": "A"}\n',
        b"{'asin': 'B000'}\n",
        "1 row without unixReviewTime",
    ),
    "a null for a time": (
        b'{"asin": "B000", "overall": 1, "reviewerID": "A", "unixReviewTime": null}\n',
        b"{'asin': 'B000'}\n",
        "1 row without unixReviewTime as a whole number, first at row 1: None",
    ),
    "metadata with a list for a key": (b"", b"{['asin']: 'B000'}\n", "meta.json: row 1 is not a Python literal"),
    "metadata is code": (
        b"",
        b"{'asin': 'B000'}\n__import__('os').getcwd()\n",
        "meta.json: row 2 is not a Python literal",
    ),
    "metadata is a list": (b"", b"['asin']\n", "meta.json: row 1 is not an object but list"),
    "metadata without asin": (
        b"",
        b"{'asin': 'B000'}\n{'parent_asin': 'B000'}\n",
        "row 2 has no 'asin'; is this the 2014 metadata file?",
    ),
    "metadata not UTF-8": (b"", b"{'asin': 'B000', 'title': '\xff'}\n", "meta.json: row 1 is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_AMAZON)
def test_bad_amazon_files_get_one_line_and_leave_nothing(tmp_path: Path, case: str) -> None:
    reviews, meta, message = BAD_AMAZON[case]
    (tmp_path / "meta.json").write_bytes(meta)
    (tmp_path / "reviews.json").write_bytes(reviews or json.dumps(GOOD_REVIEWS[0]).encode())
    with pytest.raises(InputError) as caught:
        import_amazon(tmp_path / "reviews.json", tmp_path / "meta.json", tmp_path / "out", year=2014)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_odd_metadata_become_a_table_that_can_be_read(tmp_path: Path) -> None:
    raw = lines(tmp_path / "r.json", GOOD_REVIEWS)
    odd = [
        (2014, repr({"asin": "B000", "categories": [None, ["Beauty"], "Hair"], "price": 4}), ["Beauty", "Hair"]),
        (2014, "{'asin': 'B000', 'categories': 5, 'price': 1e999}", None),
        (2018, '{"asin": "B000", "category": ["Hair \\ud83d"], "price": NaN}', ["Hair ?"]),
    ]
    for year, line, categories in odd:
        (tmp_path / "m.json").write_text(line + "\n")
        import_amazon(raw, tmp_path / "m.json", tmp_path / "out", year=year, k_core=0)  # type: ignore[arg-type]
        assert items_of(tmp_path / "out")[0].get("categories") == categories
        assert len(Catalog.from_file(tmp_path / "out" / "items.jsonl")) == 1


def test_missing_and_truncated_amazon_files(tmp_path: Path) -> None:
    raw = lines(tmp_path / "r.json", GOOD_REVIEWS)
    with pytest.raises(InputError, match=r"m\.json: no such file \(metadata\)"):
        import_amazon(raw, tmp_path / "m.json", tmp_path / "out", year=2018)
    meta = lines(tmp_path / "m.json.gz", [{"asin": f"B{i}", "title": str(i**9)} for i in range(1000)])
    with pytest.raises(InputError, match=r"x\.json: no such file \(reviews\)"):
        import_amazon(tmp_path / "x.json", meta, tmp_path / "out", year=2018)
    meta.write_bytes(meta.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"m\.json\.gz: not a whole gzip file"):
        import_amazon(raw, meta, tmp_path / "out", year=2018)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    raw, meta = lines(tmp_path / "r.json", GOOD_REVIEWS), lines(tmp_path / "m.json", META_2014, repr)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("dear to me")
    with pytest.raises(InputError, match="holds something else already"):
        import_amazon(raw, meta, out, year=2014, k_core=0)
    (out / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(InputError, match="holds something else already"):
        import_amazon(raw, meta, out, year=2014, k_core=0)
    assert (out / "thesis.txt").read_text() == "dear to me"
    (out / "thesis.txt").unlink()
    (out / "manifest.json").unlink()
    import_amazon(raw, meta, out, year=2014, k_core=0)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    import_amazon(raw, meta, out, year=2014, k_core=0)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def movie_100k(number: int, title: str, year: int, *genres: int) -> str:
    flags = "|".join("1" if i in genres else "0" for i in range(19))
    return f"{number}|{title}|01-Jan-{year}||http://us.imdb.com/M/title-exact?{number}|{flags}\n"


@pytest.fixture
def ml_100k(tmp_path: Path) -> Path:
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    movies = movie_100k(1, "Toy Story (1995)", 1995, 3, 4, 5) + movie_100k(2, "Misérables, Les (1995)", 1995, 8)
    movies += "267|unknown||||" + "|".join(["1"] + ["0"] * 18) + "\n"
    (folder / "u.item").write_text(movies + "\n", encoding="latin-1")
    (folder / "u.data").write_text("196\t2\t3\t881250949\n196\t1\t5\t881250948\n22\t1\t1\t878887116\n")
    return folder


def test_movielens_100k(ml_100k: Path, tmp_path: Path) -> None:
    imported = import_movielens(ml_100k, tmp_path / "out", version="100k")
    assert imported == Imported(users=2, items=3, events=3, repeated=0, outside_core=0, without_metadata=0)
    assert items_of(tmp_path / "out") == [
        {
            "item_id": "1",
            "title": "Toy Story (1995)",
            "year": 1995,
            "categories": ["Animation", "Children's", "Comedy"],
        },
        {"item_id": "2", "title": "Misérables, Les (1995)", "year": 1995, "categories": ["Drama"]},
        {"item_id": "267", "title": "unknown"},
    ]
    assert log_of(tmp_path / "out") == [
        "user_id,item_id,timestamp,rating",
        "196,1,881250948,5.0",
        "196,2,881250949,3.0",
        "22,1,878887116,1.0",
    ]


def test_movielens_1m(tmp_path: Path) -> None:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    movies = (
        "1::Toy Story (1995)::Animation|Children's|Comedy\r\n1176::Double Life of V\xe9ronique, The (1991)::Drama\r\n"
    )
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    (folder / "ratings.dat").write_text("1::1176::5::978300760\n1::1::3::978302109\n")
    imported = import_movielens(folder, tmp_path / "out", version="1m")
    assert imported == Imported(users=1, items=2, events=2, repeated=0, outside_core=0, without_metadata=0)
    assert items_of(tmp_path / "out")[1] == {
        "item_id": "1176",
        "title": "Double Life of Véronique, The (1991)",
        "year": 1991,
        "categories": ["Drama"],
    }
    assert log_of(tmp_path / "out")[1:] == ["1,1176,978300760,5.0", "1,1,978302109,3.0"]


def test_movielens_latest(tmp_path: Path) -> None:
    folder = tmp_path / "ml-latest-small"
    folder.mkdir()
    (folder / "movies.csv").write_text(
        "movieId,title,genres\n1,Toy Story (1995),Adventure|Animation\n"
        '11,"American President, The (1995)",Comedy\n181413,Too Funny to Fail,(no genres listed)\n'
    )
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,11,4.5,964981247\n1,1,4.0,964982703\n2,1,0.5,964982703\n"
    )
    imported = import_movielens(folder, tmp_path / "out", version="latest", k_core=1)
    assert imported == Imported(users=2, items=2, events=3, repeated=0, outside_core=0, without_metadata=0)
    import_movielens(folder, tmp_path / "all", version="latest")
    assert items_of(tmp_path / "all") == [
        {"item_id": "1", "title": "Toy Story (1995)", "year": 1995, "categories": ["Adventure", "Animation"]},
        {"item_id": "11", "title": "American President, The (1995)", "year": 1995, "categories": ["Comedy"]},
        {"item_id": "181413", "title": "Too Funny to Fail"},
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("u.data", b"196\t2\t3\n", r"u\.data: 1 row with other than 4 fields, first at row 1"),
        (
            "u.data",
            b"196\t2\t3\t88\n196\t1\t5\tnow\n",
            r"1 row with a timestamp that is not a whole number, first at row 2: 'now'",
        ),
        ("u.data", b"196\t2\tfive\t88\n", r"1 row with a rating that is not a number, first at row 1: 'five'"),
        ("u.data", b"\t2\t3\t88\n", "1 row without user_id, first at row 1"),
        ("u.data", b"", r"u\.data: the file is empty"),
        ("u.item", b"1|Toy Story|x\n", r"u\.item: 1 row with other than 24 fields, first at row 1"),
        ("u.item", b"|Toy Story" + b"|" * 22 + b"\n", r"u\.item: 1 row without a movie id, first at row 1"),
    ],
)
def test_bad_movielens_files_get_one_line(ml_100k: Path, tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (ml_100k / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        import_movielens(ml_100k, tmp_path / "out", version="100k")
    (ml_100k / name).unlink()
    with pytest.raises(InputError, match="no such file"):
        import_movielens(ml_100k, tmp_path / "out", version="100k")


def test_the_command_s_configuration(ml_100k: Path, tmp_path: Path) -> None:
    assert run_import(ImportConfig("movielens-100k", tmp_path / "m", folder=ml_100k)).events == 3
    raw, meta = lines(tmp_path / "r.json", GOOD_REVIEWS), lines(tmp_path / "m.json", META_2014, repr)
    config = ImportConfig("amazon-2014", tmp_path / "a", reviews=raw, metadata=meta)
    with pytest.raises(InputError, match="--k_core 5: no event is left"):
        run_import(config)
    assert run_import(ImportConfig("amazon-2014", tmp_path / "a", reviews=raw, metadata=meta, k_core=1)).events == 1
    with pytest.raises(InputError, match="amazon-2014 needs --reviews and --metadata, and no other input"):
        ImportConfig("amazon-2014", tmp_path, folder=ml_100k)
    with pytest.raises(InputError, match="movielens-1m needs --folder, and no other input"):
        ImportConfig("movielens-1m", tmp_path, folder=ml_100k, reviews=raw)
    with pytest.raises(InputError, match="FORMAT netflix: must be one of amazon-2014"):
        ImportConfig("netflix", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="k_core -1 must not be negative"):
        ImportConfig("movielens-1m", tmp_path, folder=ml_100k, k_core=-1)
