#include "tests/documents.h"

#include <algorithm>
#include <array>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace zmem {
namespace {

constexpr uint64_t kSeed = 0x7a6d656d;  // of all documents together with their index

constexpr std::array kFirstNames = {
    "Amelia",  "Bram",   "Chiara",    "Dmitri", "Elif",    "Farid",     "Greta",     "Hiroshi",
    "Ingrid",  "Jonas",  "Katarzyna", "Liam",   "Mariana", "Nadia",     "Oluwaseun", "Priya",
    "Quentin", "Rosa",   "Sanjay",    "Tereza", "Umut",    "Valentina", "Wei",       "Ximena",
    "Yusuf",   "Zsofia", "Anneke",    "Bogdan", "Camille", "Declan"};
constexpr std::array kLastNames = {
    "Andersson", "Bianchi",   "Carvalho", "Dubois",    "Eriksen",   "Fernandez",
    "Goldberg",  "Hoffmann",  "Ivanova",  "Jansen",    "Kowalski",  "Lindqvist",
    "Martinez",  "Nakamura",  "Okafor",   "Papadakis", "Quispe",    "Rossi",
    "Schneider", "Takahashi", "Ueda",     "Virtanen",  "Weber",     "Yilmaz",
    "Zhang",     "Almeida",   "Brennan",  "Chaudhary", "Delacroix", "Fitzgerald"};
constexpr std::array kStreets = {
    "Linden Avenue", "Harbour Street",  "Mill Lane",       "Station Road",
    "Church Street", "Kings Road",      "Victoria Street", "Oak Drive",
    "Canal Row",     "Market Place",    "Queens Parade",   "Abbey Walk",
    "Quarry Hill",   "Orchard Gardens", "Priory Close",    "Bridge End"};
constexpr std::array kCities = {"Amsterdam", "Bologna",    "Copenhagen", "Dresden",   "Edinburgh",
                                "Freiburg",  "Gothenburg", "Helsinki",   "Innsbruck", "Jena",
                                "Krakow",    "Lisbon",     "Marseille",  "Nantes",    "Oslo",
                                "Porto",     "Rotterdam",  "Salzburg",   "Turin",     "Utrecht"};
constexpr std::array kDomains = {"example.com", "mail.example.org", "post.example.net",
                                 "office.example.com", "home.example.org"};
constexpr std::array kProducts = {
    "stainless steel kettle", "merino wool blanket", "cast iron skillet",  "oak cutting board",
    "linen table runner",     "ceramic pour-over",   "folding desk lamp",  "canvas tote bag",
    "walnut bookend",         "enamel camping mug",  "cotton bath towel",  "brass door handle",
    "leather key ring",       "glass storage jar",   "bamboo drying rack", "porcelain teapot"};
constexpr std::array kPaths = {
    "/api/v2/orders",    "/api/v2/customers",  "/static/css/main.css", "/search", "/basket/items",
    "/checkout/confirm", "/images/thumbnails", "/account/settings",    "/health"};
constexpr std::array kAgents = {
    "Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "curl/7.88.1", "python-requests/2.28.1"};
constexpr std::array kWords = {
    "the",       "of",        "and",       "to",        "in",       "we",      "you",
    "our",       "your",      "for",       "is",        "that",     "with",    "on",
    "be",        "have",      "order",     "delivery",  "please",   "week",    "thank",
    "will",      "before",    "after",     "address",   "customer", "payment", "received",
    "parcel",    "question",  "answer",    "invoice",   "morning",  "evening", "carrier",
    "replace",   "broken",    "refund",    "colour",    "size",     "happy",   "sorry",
    "because",   "between",   "several",   "another",   "nothing",  "already", "warehouse",
    "neighbour", "signature", "weekend",   "holiday",   "package",  "damaged", "complete",
    "instead",   "without",   "whether",   "although",  "during",   "account", "password",
    "number",    "contact",   "telephone", "message",   "reply",    "return",  "label",
    "printed",   "attached",  "original",  "condition", "discount", "voucher", "expires",
    "exchange",  "available", "again",     "sincerely", "regards",  "support", "team",
    "manager",   "service",   "quality",   "product",   "garden",   "kitchen", "winter",
    "summer",    "present",   "birthday",  "daughter",  "husband"};

// One document's source of randomness, and the phrases that everything is made of.
class Writer {
 public:
  explicit Writer(uint64_t index) : random_(kSeed + index * 0x9e3779b97f4a7c15) {}

  uint64_t Below(uint64_t bound) { return random_() % bound; }
  template <typename List>
  const char* Pick(const List& list) {
    return list[Below(list.size())];
  }
  // Natural language prefers few words: the smaller of two draws.
  const char* Word() { return kWords[std::min(Below(kWords.size()), Below(kWords.size()))]; }

  std::string Time() {
    return absl::StrFormat("2024-%02d-%02dT%02d:%02d:%02dZ", 1 + Below(12), 1 + Below(28),
                           Below(24), Below(60), Below(60));
  }
  std::string Sentence() {
    std::string text(Word());
    text[0] = static_cast<char>(text[0] - 'a' + 'A');
    for (uint64_t words = 6 + Below(12); words > 0; --words) absl::StrAppend(&text, " ", Word());
    return text + ". ";
  }

  std::string Customer();
  std::string Orders();
  std::string AccessLog();
  std::string Letter();
  std::string Picture();

 private:
  void AppendPerson(std::string& text);

  std::mt19937_64 random_;
};

void Writer::AppendPerson(std::string& text) {
  const char* first = Pick(kFirstNames);
  const char* last = Pick(kLastNames);
  absl::StrAppendFormat(
      &text,
      R"("customer_id":%d,"first_name":"%s","last_name":"%s","email":"%s.%s%d@%s",)"
      R"("phone":"+%d %d %07d","address":{"street":"%s","number":%d,"postal_code":"%05d",)"
      R"("city":"%s"},)",
      100000 + Below(900000), first, last, first, last, Below(100), Pick(kDomains), 30 + Below(60),
      10 + Below(90), Below(10'000'000), Pick(kStreets), 1 + Below(180), Below(100'000),
      Pick(kCities));
}

std::string Writer::Customer() {
  std::string text = "{";
  AppendPerson(text);
  std::string day = Time().substr(0, 11);
  absl::StrAppendFormat(&text, R"("created_at":"%s","newsletter":%s,"locale":"%s","events":[)",
                        Time(), Below(2) == 0 ? "true" : "false", Below(3) == 0 ? "fr" : "en");
  for (uint64_t events = 8 + Below(24); events > 0; --events) {
    absl::StrAppendFormat(
        &text,
        R"({"at":"%s%02d:%02d:%02dZ","kind":"%s","path":"%s/%d","referrer":null,"campaign":%s,)"
        R"("experiment":"%s","duration_ms":%d},)",
        day, Below(24), Below(60), Below(60), Below(6) == 0 ? "purchase" : "page_view",
        Pick(kPaths), Below(10'000), Below(8) == 0 ? "\"autumn-sale\"" : "null",
        Below(2) == 0 ? "control" : "variant-b", Below(4000));
  }
  text.back() = ']';
  absl::StrAppend(&text, R"(,"note":")", Sentence(), Sentence(), "\"}");
  return text;
}

std::string Writer::Orders() {
  std::string text = "{";
  AppendPerson(text);
  absl::StrAppendFormat(&text, R"("order_id":"%016x","status":"%s","placed_at":"%s","items":[)",
                        random_(), Below(4) == 0 ? "returned" : "delivered", Time());
  for (uint64_t items = 6 + Below(24); items > 0; --items) {
    absl::StrAppendFormat(
        &text,
        R"({"sku":"%08X","title":"%s","quantity":%d,"unit_price":{"amount":%d.%02d,)"
        R"("currency":"EUR","tax_rate":0.21},"discount":null,"gift_wrap":%s,"warehouse":"%s"},)",
        Below(uint64_t{1} << 32), Pick(kProducts), 1 + Below(5), 1 + Below(200),
        Below(2) == 0 ? 99 : Below(100), Below(10) == 0 ? "true" : "false", Pick(kCities));
  }
  text.back() = ']';
  return text + "}";
}

// Visitors come several requests at a time.
std::string Writer::AccessLog() {
  std::string text;
  std::string day = Time().substr(0, 11);
  uint64_t second = Below(80'000);
  std::string visitor;
  const char* agent = "";
  for (uint64_t lines = 10 + Below(40); lines > 0; --lines) {
    second += Below(4);
    if (visitor.empty() || Below(3) == 0) {
      visitor = absl::StrFormat("10.%d.%d.%d", Below(4), Below(256), Below(256));
      agent = Pick(kAgents);
    }
    absl::StrAppendFormat(
        &text, "%s - - [%s%02d:%02d:%02d.%03d] \"%s %s/%d HTTP/1.1\" %d %d \"%s\" %.3f\n", visitor,
        day, second / 3600 % 24, second / 60 % 60, second % 60, Below(1000),
        Below(5) == 0 ? "POST" : "GET", Pick(kPaths), Below(100'000), Below(12) == 0 ? 404 : 200,
        200 + Below(60'000), agent, static_cast<double>(Below(2000)) / 1e3);
  }
  return text;
}

std::string Writer::Letter() {
  std::string text =
      absl::StrFormat("From: %s %s <%s@%s>\nDate: %s\nSubject: %s\n\n", Pick(kFirstNames),
                      Pick(kLastNames), Pick(kLastNames), Pick(kDomains), Time(), Sentence());
  for (uint64_t sentences = 10 + Below(30); sentences > 0; --sentences) {
    absl::StrAppend(&text, Sentence(), Below(5) == 0 ? "\n\n" : "");
  }
  return text;
}

std::string Writer::Picture() {
  std::string bytes("\xff\xd8\xff\xe0\0\x10JFIF\0", 11);
  for (uint64_t words = 1000 + Below(2000); words > 0; --words) {
    uint64_t word = random_();
    bytes.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  return bytes;
}

enum class Kind { kCustomer, kOrder, kLog, kLetter, kPicture };

// Of a hundred documents 36 are customers, 36 orders, 19 logs, 8 letters and one is a picture.
Kind KindOf(uint64_t index) {
  uint64_t draw = std::mt19937_64(kSeed ^ index)() % 100;
  if (draw < 36) return Kind::kCustomer;
  if (draw < 72) return Kind::kOrder;
  if (draw < 91) return Kind::kLog;
  if (draw < 99) return Kind::kLetter;
  return Kind::kPicture;
}

}  // namespace

std::string DocumentKey(uint64_t index) {
  static constexpr std::array kNames = {"customer", "order", "log", "letter", "picture"};
  return absl::StrFormat("%s:%07d", kNames[static_cast<size_t>(KindOf(index))], index);
}

std::string Document(uint64_t index) {
  Writer writer(index);
  switch (KindOf(index)) {
    case Kind::kCustomer:
      return writer.Customer();
    case Kind::kOrder:
      return writer.Orders();
    case Kind::kLog:
      return writer.AccessLog();
    case Kind::kLetter:
      return writer.Letter();
    case Kind::kPicture:
      return writer.Picture();
  }
  return {};
}

}  // namespace zmem
