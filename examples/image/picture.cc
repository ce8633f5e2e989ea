#include "picture.h"

#include <fmt/format.h>
#include <leptonica/allheaders.h>
#include <tesseract/baseapi.h>
#include <tesseract/resultiterator.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

namespace image {

namespace {

constexpr int kQuality = 90;  // of JPEG, percent

struct DropPix {
  void operator()(Pix* pix) const { pixDestroy(&pix); }
};
using PixPtr = std::unique_ptr<Pix, DropPix>;

struct DropFont {
  void operator()(L_Bmf* font) const { bmfDestroy(&font); }
};
using FontPtr = std::unique_ptr<L_Bmf, DropFont>;

absl::StatusOr<PixPtr> Decode(std::string_view picture) {
  setMsgSeverity(L_SEVERITY_NONE);  // what is wrong is told by our status
  PixPtr pix(pixReadMem(reinterpret_cast<const l_uint8*>(picture.data()), picture.size()));
  // Eight bits of red, green and blue, whatever it was.
  if (pix != nullptr) pix.reset(pixConvertTo32(pix.get()));
  if (pix == nullptr) return absl::InvalidArgumentError("these bytes are no picture");
  return pix;
}

absl::StatusOr<std::string> Encode(Pix* pix) {
  l_uint8* data = nullptr;
  std::size_t size = 0;
  if (pix == nullptr || pixWriteMemJpeg(&data, &size, pix, kQuality, 0) != 0) {
    return absl::InternalError("Leptonica could not write a JPEG");
  }
  std::string bytes(reinterpret_cast<const char*>(data), size);
  lept_free(data);
  return bytes;
}

absl::StatusOr<FontPtr> MakeFont(int points) {
  FontPtr font(bmfCreate(nullptr, points));
  if (font == nullptr) return absl::InternalError("Leptonica has no font");
  return font;
}

// Black on white, as large as the text needs.
PixPtr DrawLine(L_Bmf* font, const std::string& line, float scale) {
  l_int32 width = 0;
  bmfGetStringWidth(font, line.c_str(), &width);
  const PixPtr small(pixCreate(width + 20, 90, 32));
  pixSetAll(small.get());
  l_int32 used = 0;
  l_int32 overflow = 0;
  pixSetTextline(small.get(), font, line.c_str(), 0x00000000, 10, 60, &used, &overflow);
  return PixPtr(pixScale(small.get(), scale, scale));
}

// Light falls off from the upper left; every pixel is off by a little.
void Expose(Pix* pix, std::mt19937& engine) {
  const int width = pixGetWidth(pix);
  const int height = pixGetHeight(pix);
  l_uint32* const data = pixGetData(pix);
  const int words = pixGetWpl(pix);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      l_int32 red, green, blue;
      l_uint32& pixel = data[std::ptrdiff_t{y} * words + x];
      extractRGBValues(pixel, &red, &green, &blue);
      const double light = 1.0 - 0.35 * x / width - 0.15 * y / height;
      const auto expose = [&](int value) {
        const int noise = static_cast<int>(engine() % 25) - 12;
        return std::clamp(static_cast<int>(value * light) + noise, 0, 255);
      };
      composeRGBPixel(expose(red), expose(green), expose(blue), &pixel);
    }
  }
}

// One of a process: loading the model takes longer than reading a page. Used by one thread.
tesseract::TessBaseAPI* Reader() {
  static const auto reader = [] {
    auto made = std::make_unique<tesseract::TessBaseAPI>();
    if (made->Init(nullptr, "eng", tesseract::OEM_LSTM_ONLY) != 0) made.reset();
    return made;
  }();
  return reader.get();
}

}  // namespace

absl::StatusOr<Size> SizeOf(std::string_view picture) {
  const absl::StatusOr<PixPtr> pix = Decode(picture);
  if (!pix.ok()) return pix.status();
  return Size{pixGetWidth(pix->get()), pixGetHeight(pix->get())};
}

absl::StatusOr<std::string> Resize(std::string_view picture, int longest) {
  const absl::StatusOr<PixPtr> pix = Decode(picture);
  if (!pix.ok()) return pix.status();
  const int side = std::max(pixGetWidth(pix->get()), pixGetHeight(pix->get()));
  if (side <= longest) return Encode(pix->get());
  const float factor = static_cast<float>(longest) / static_cast<float>(side);
  return Encode(PixPtr(pixScale(pix->get(), factor, factor)).get());
}

absl::StatusOr<std::vector<Word>> Predict(std::string_view picture, float confidence) {
  const absl::StatusOr<PixPtr> pix = Decode(picture);
  if (!pix.ok()) return pix.status();
  tesseract::TessBaseAPI* const reader = Reader();
  if (reader == nullptr) {
    return absl::FailedPreconditionError(
        "Tesseract's model for English is not there: install tesseract-ocr-eng");
  }
  reader->SetPageSegMode(tesseract::PSM_SPARSE_TEXT);
  reader->SetImage(pix->get());
  reader->SetSourceResolution(150);
  if (reader->Recognize(nullptr) != 0) return absl::InternalError("Tesseract failed");
  std::vector<Word> words;
  const std::unique_ptr<tesseract::ResultIterator> at(reader->GetIterator());
  if (at != nullptr && !at->Empty(tesseract::RIL_WORD)) {
    do {
      const std::unique_ptr<char[]> text(at->GetUTF8Text(tesseract::RIL_WORD));
      const float sure = at->Confidence(tesseract::RIL_WORD);
      int left, top, right, bottom;
      if (text == nullptr || sure < confidence ||
          !at->BoundingBox(tesseract::RIL_WORD, &left, &top, &right, &bottom)) {
        continue;
      }
      words.push_back({text.get(), sure, left, top, right - left, bottom - top});
    } while (at->Next(tesseract::RIL_WORD));
  }
  reader->Clear();
  return words;
}

absl::StatusOr<std::string> Render(std::string_view picture, const std::vector<Word>& words) {
  const absl::StatusOr<PixPtr> pix = Decode(picture);
  if (!pix.ok()) return pix.status();
  const absl::StatusOr<FontPtr> font = MakeFont(6);
  if (!font.ok()) return font.status();
  l_uint32 red = 0;
  composeRGBPixel(220, 20, 20, &red);
  for (const Word& word : words) {
    Box* box = boxCreate(word.left - 3, word.top - 3, word.width + 6, word.height + 6);
    pixRenderBoxArb(pix->get(), box, 2, 220, 20, 20);
    boxDestroy(&box);
    l_int32 used = 0;
    l_int32 overflow = 0;
    pixSetTextline(pix->get(), font->get(), word.text.c_str(), red, std::max(0, word.left),
                   word.top + word.height + 22, &used, &overflow);
  }
  return Encode(pix->get());
}

absl::StatusOr<std::string> MakePhotograph(std::uint32_t seed,
                                           const std::vector<std::string>& lines) {
  constexpr int kWidth = 1600;
  constexpr int kHeight = 1000;
  constexpr double kAskew = 0.01;  // radians
  std::mt19937 engine(seed);
  const absl::StatusOr<FontPtr> font = MakeFont(20);
  if (!font.ok()) return font.status();
  PixPtr photo(pixCreate(kWidth, kHeight, 32));
  // Foliage, from afar: patches of greens and browns.
  for (int y = 0; y < kHeight; y += 50) {
    for (int x = 0; x < kWidth; x += 50) {
      const l_int32 shade = 40 + static_cast<l_int32>(engine() % 60);
      l_uint32 color = 0;
      composeRGBPixel(shade, shade + 25, shade / 2, &color);
      Box* patch = boxCreate(x, y, 50, 50);
      pixSetInRectArbitrary(photo.get(), patch, color);
      boxDestroy(&patch);
    }
  }
  Box* sign = boxCreate(150, 120, kWidth - 300, kHeight - 240);
  pixSetInRectArbitrary(photo.get(), sign, 0xf0ead800);
  boxDestroy(&sign);
  int top = 170;
  for (const std::string& line : lines) {
    const PixPtr drawn = DrawLine(font->get(), line, 1.15f);
    pixRasterop(photo.get(), 230, top, pixGetWidth(drawn.get()), pixGetHeight(drawn.get()),
                PIX_SRC & PIX_DST, drawn.get(), 0, 0);
    top += 150;
  }
  photo.reset(pixRotate(photo.get(), static_cast<l_float32>(kAskew), L_ROTATE_AREA_MAP,
                        L_BRING_IN_WHITE, 0, 0));
  photo.reset(pixBlockconv(photo.get(), 1, 1));
  if (photo == nullptr) return absl::InternalError("Leptonica could not make a photograph");
  Expose(photo.get(), engine);
  return Encode(photo.get());
}

}  // namespace image
