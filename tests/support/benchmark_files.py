"""Small files in the exact layout in which each benchmark is published, with pictures beside them."""

import base64
import csv
import io
import json

import numpy as np
from PIL import Image

COCO_IDS = (42, 73, 139, 285)


def picture(number, kind="JPEG"):
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((48, 36))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def write_json(path, content):
    write(path, json.dumps(content))


def write_lines(path, rows):
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def coco_pictures(folder, subset):
    for number in COCO_IDS:
        name = f"{number:012d}.jpg" if subset.endswith("17") else f"COCO_{subset}_{number:012d}.jpg"
        write(folder / subset / name, picture(number))


def okvqa(folder):
    questions = [
        {"image_id": number, "question": f"What is thing {place}?", "question_id": number * 10 + place}
        for number in COCO_IDS
        for place in range(2)
    ]
    head = {"info": {"description": "OK-VQA"}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}}
    write_json(
        folder / "OpenEnded_mscoco_val2014_questions.json", {**head, "questions": questions, "data_subtype": "val2014"}
    )
    annotations = [
        {
            "image_id": question["image_id"],
            "question_id": question["question_id"],
            "question_type": "eight",
            "answer_type": "other",
            "confidence": 3,
            "answers": [
                {
                    "answer_id": number + 1,
                    "raw_answer": answer,
                    "answer": answer,
                    "answer_confidence": "yes",
                }
                for number, answer in enumerate(["red"] * 3 + ["blue"] * 7)
            ],
        }
        for question in questions
    ]
    content = {**head, "annotations": annotations, "question_types": {"eight": "Other"}, "data_subtype": "val2014"}
    write_json(folder / "mscoco_val2014_annotations.json", content)
    coco_pictures(folder, "val2014")


def aokvqa(folder, split="val"):
    rows = [
        {
            "split": split,
            "image_id": number,
            "question_id": f"22MexNkBPpdZGX6sxbxVB{number}",
            "question": "What is it made of?",
            "choices": ["wood", "red wood", "steel", "paper"],
            "correct_choice_idx": 1,
            "direct_answers": ["wood"] * 4 + ["steel"] * 6,
            "difficult_direct_answer": number == COCO_IDS[0],
            "rationales": ["It looks like it.", "One sees it.", "It is."],
        }
        for number in COCO_IDS
    ]
    if split == "test":
        hidden = ("correct_choice_idx", "direct_answers", "rationales")
        rows = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
    write_json(folder / f"aokvqa_v1p0_{split}.json", rows)
    coco_pictures(folder, "test2017" if split == "test" else "val2017")


ABILITIES = ("coarse_perception", "logic_reasoning", "finegrained_perception (cross-instance)")


def mmbench_rows():
    """Questions with two, three and four options, each as often as it has options, rotated."""
    rows = []
    for number, ability in enumerate(ABILITIES):
        options = ["cat", "dog", "boat", "a red house"][: number + 2]
        for turn in range(len(options)):
            moved = options[len(options) - turn :] + options[: len(options) - turn]
            row = {"index": 241 + number + turn * 1_000_000, "question": "Which one is it?"}
            row |= {"hint": "Look at\tthe colours." if number else ""}
            row |= dict(zip("ABCD", [*moved, "", ""][:4], strict=True))
            row |= {"answer": "ABCD"[moved.index("dog")], "category": "image_topic"}
            row |= {"image": base64.b64encode(picture(number)).decode(), "source": "ours", "l2-category": ability}
            rows.append({**row, "comment": "", "split": "dev"})
    return rows


def mmbench(folder, rows=None, name="mmbench_dev_20230712.tsv"):
    rows = mmbench_rows() if rows is None else rows
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(folder / name, buffer.getvalue())


def llava(folder):
    questions = [
        {
            "question_id": number * 3 + place,
            "image": f"{image:012d}.jpg",
            "text": f"What about thing {place}?",
            "category": category,
        }
        for number, image in enumerate(COCO_IDS[:2])
        for place, category in enumerate(("conv", "detail", "complex"))
    ]
    write_lines(folder / "qa90_questions.jsonl", questions)
    answers = [
        {"question_id": row["question_id"], "text": "It is a thing.", "category": row["category"]} for row in questions
    ]
    write_lines(folder / "qa90_gpt4_answer.jsonl", answers)
    contexts = [
        {
            "id": f"{image:012d}",
            "image": f"{image:012d}.jpg",
            "captions": ["A thing."] * 5,
            "instances": [{"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}],
        }
        for image in COCO_IDS[:2]
    ]
    write_lines(folder / "caps_boxes_coco2014_val_80.jsonl", contexts)
    coco_pictures(folder, "val2014")


def instances(folder):
    """COCO's annotations: instances with a crowd, and captions."""
    names = ["person", "dog", "cat", "boat", "bench"]
    categories = [{"id": number, "name": name, "supercategory": "thing"} for number, name in enumerate(names, 1)]
    images = [
        {
            "license": 5,
            "file_name": f"COCO_val2014_{number:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/val2014/COCO_val2014_{number:012d}.jpg",
            "height": 36,
            "width": 48,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": "http://farm1.staticflickr.com/1/2.jpg",
            "id": number,
        }
        for number in COCO_IDS
    ]
    annotations = [
        {
            "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
            "area": 12.5,
            "iscrowd": int(category == 2),
            "image_id": number,
            "bbox": [1.0, 2.0, 3.0, 4.0],
            "category_id": category,
            "id": number * 10 + category,
        }
        for place, number in enumerate(COCO_IDS)
        for category in (1, 2 + place % 3)
    ]
    head = {"info": {"description": "COCO 2014 Dataset"}, "licenses": [{"id": 5, "name": "Attribution License"}]}
    folder = folder / "annotations"
    write_json(
        folder / "instances_val2014.json",
        {**head, "images": images, "annotations": annotations, "categories": categories},
    )
    captions = [
        {"image_id": number, "id": number * 5 + one, "caption": "Someone sits on a park bench."}
        for number in COCO_IDS[:1]
        for one in range(5)
    ]
    write_json(folder / "captions_val2014.json", {**head, "images": images, "annotations": captions})


def chair(folder):
    instances(folder)
    coco_pictures(folder, "val2014")


def pope(folder):
    for setting in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": number * 2 + place + 1,
                "image": f"COCO_val2014_{image:012d}.jpg",
                "text": f"Is there a {thing} in the image?",
                "label": label,
            }
            for number, image in enumerate(COCO_IDS)
            for place, (thing, label) in enumerate((("dog", "yes"), ("boat", "no")))
        ]
        write_lines(folder / f"coco_pope_{setting}.json", rows)
    coco_pictures(folder, "val2014")


MAKERS = {"llava": llava, "mmbench": mmbench, "okvqa": okvqa, "aokvqa": aokvqa, "chair": chair, "pope": pope}
