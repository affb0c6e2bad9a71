//! The words that synthetic prompts are made of: names, adjectives and sentence templates. Data only; `grammar` puts them
//! together. All of it was written for this project. Changing anything here changes every synthetic prompt, so it
//! needs a new `GENERATOR_VERSION`.

pub(super) const FIRST_NAMES: &[&str] = &[
    "Ada", "Adam", "Agnes", "Alice", "Amara", "Amir", "Anna", "Anton", "Arthur", "Astrid", "Aylin", "Bao", "Beatrice",
    "Ben", "Bruno", "Carla", "Carlos", "Cecilia", "Chen", "Chloe", "Clara", "Dana", "Daniel", "David", "Diego", "Dora",
    "Edith", "Elena", "Elias", "Emil", "Emma", "Erik", "Esther", "Farid", "Fatima", "Felix", "Fiona", "Frida",
    "George", "Grace", "Greta", "Hana", "Hannah", "Hassan", "Helen", "Henry", "Hugo", "Ida", "Igor", "Ines", "Irene",
    "Isaac", "Ivan", "Jack", "James", "Jana", "Jonas", "Julia", "Karim", "Kate", "Kenji", "Lara", "Laura", "Lena",
    "Leo", "Lina", "Louis", "Lucia", "Lukas", "Maria", "Marta", "Martin", "Maya", "Mei", "Miguel", "Mila", "Mina",
    "Nadia", "Naomi", "Nils", "Nina", "Noah", "Nora", "Olga", "Oliver", "Omar", "Oscar", "Paula", "Pedro", "Peter",
    "Petra", "Priya", "Rachel", "Ravi", "Rita", "Robert", "Rosa", "Ruth", "Samir", "Sara", "Simon", "Sofia", "Stella",
    "Sven", "Tara", "Theo", "Thomas", "Tina", "Vera", "Victor", "Walter", "Yara", "Yuki", "Zoe",
];

pub(super) const LAST_NAMES: &[&str] = &[
    "Abbott", "Adler", "Ahmed", "Alvarez", "Archer", "Bakker", "Barnes", "Becker", "Bell", "Berg", "Bishop", "Blake",
    "Brandt", "Brooks", "Campbell", "Carter", "Castro", "Chapman", "Chen", "Clark", "Cole", "Cooper", "Costa", "Cruz",
    "Dalton", "Diaz", "Dixon", "Duarte", "Edwards", "Ellis", "Evans", "Falk", "Fischer", "Fletcher", "Foster", "Fox",
    "Frost", "Garcia", "Gibson", "Gomez", "Grant", "Gray", "Haas", "Hale", "Hansen", "Harper", "Hayes", "Hill", "Holm",
    "Hughes", "Hunt", "Ibrahim", "Ito", "Jansen", "Jensen", "Jones", "Kaya", "Keller", "Khan", "Kim", "King", "Klein",
    "Kumar", "Lang", "Larsen", "Lee", "Lin", "Lopez", "Lund", "Marsh", "Mason", "Meyer", "Miller", "Moore", "Morgan",
    "Nash", "Nguyen", "Noble", "Novak", "Olsen", "Owens", "Park", "Parker", "Patel", "Pereira", "Perry", "Porter",
    "Quinn", "Ramos", "Reed", "Reyes", "Rossi", "Roth", "Russell", "Santos", "Sato", "Schmidt", "Shah", "Shaw",
    "Silva", "Singh", "Smith", "Snow", "Stein", "Stone", "Suzuki", "Tanaka", "Taylor", "Torres", "Turner", "Vega",
    "Vogel", "Wagner", "Walker", "Wang", "Ward", "Weber", "West", "Wolf", "Wood", "Wright", "Yang", "Young", "Zhang",
];

pub(super) const ROLES: &[&str] = &[
    "project manager",
    "head of planning",
    "junior developer",
    "team lead",
    "consultant",
    "student",
    "journalist",
    "operations manager",
    "data analyst",
    "quality manager",
    "teacher",
    "board member",
    "support agent",
    "technical writer",
    "research assistant",
    "site manager",
    "trainer",
    "accountant",
    "designer",
    "auditor",
];

pub(super) const ADJECTIVES: &[&str] = &[
    "careful",
    "clear",
    "common",
    "complete",
    "cheap",
    "daily",
    "direct",
    "early",
    "expensive",
    "fair",
    "final",
    "formal",
    "gradual",
    "helpful",
    "honest",
    "important",
    "independent",
    "joint",
    "large",
    "local",
    "modern",
    "narrow",
    "obvious",
    "partial",
    "practical",
    "private",
    "quick",
    "quiet",
    "recent",
    "regular",
    "reliable",
    "robust",
    "separate",
    "simple",
    "slow",
    "small",
    "stable",
    "strict",
    "sudden",
    "temporary",
    "typical",
    "unusual",
    "useful",
    "weekly",
];

pub(super) const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

pub(super) const LANGUAGES: &[&str] =
    &["Python", "Rust", "Java", "Go", "C", "SQL", "JavaScript", "Julia", "shell script"];

/// How a prompt begins when it shares no prefix. Every one starts with names, so that two prompts differ in their first
/// tokens.
pub(super) const OPENERS: &[&str] = &[
    "{first} {last}, {role}, asks:",
    "{first} {last} ({role}) writes:",
    "{last} and {last2} need help with {topic}.",
    "{first} {last} works as {role} for {topic}.",
    "{last}, {first}: a question about {topic}.",
    "{first} and {first2} {last} wrote to us in {month}.",
    "{first} {last} sent this request on {month} {day}:",
];

/// Openers of prompts with little room.
pub(super) const SHORT_OPENERS: &[&str] = &["{first} {last}:", "{last}, {first}:", "{first} {last} asks:"];

pub(super) const QUESTIONS: &[&str] = &[
    "How should {people} {action}?",
    "Why does it matter that {problem}?",
    "What happens to the {measure} when {people} {action}?",
    "Which {adjective} steps would improve the {thing}?",
    "Who should decide about the {thing}, and when?",
    "Is it wise to {action} when {problem}?",
    "What is a {adjective2} way to measure the {measure}?",
    "Can you explain why {problem}?",
    "What would you change about the {thing} first?",
    "How can {people} notice early that {problem}?",
    "Where does the {measure} come from?",
    "Should {people} {action} before they change the {thing}?",
];

pub(super) const CODE_REQUESTS: &[&str] = &[
    "Write a {language} function that reads the {measure} from a file and returns the largest {n} values.",
    "Sketch a {language} program in which {people} can {action}.",
    "Show {language} code that checks each entry of the {thing} and reports why {problem}.",
    "Write tests in {language} for a module that stores the {measure} per {thing}.",
    "Refactor a {language} script that computes the {measure} every {n} minutes, and explain each step.",
];

pub(super) const COMPARISONS: &[&str] = &[
    "Compare the {thing} with the {thing2} and say which one {people} should improve first.",
    "List the advantages and drawbacks if {people} {action} instead of relying on the {thing}.",
    "Compare two plans: in one, {people} {action}; in the other, they replace the {thing}.",
    "Rank the {thing}, the {thing2} and the {measure} by their influence on cost.",
    "Summarise what changes for {people} when the {measure} doubles.",
];

pub(super) const DOCUMENT_REQUESTS: &[&str] = &[
    "Read the report below and summarise what it says about the {thing}.",
    "Using only the notes below, explain why {problem}.",
    "The text below is about {topic}. List each decision with its reason.",
    "Find the statements below that concern the {measure} and check them against each other.",
    "Turn the following notes into a {adjective} plan for {people}.",
    "Answer as if you had to present the following report to {people}.",
];

pub(super) const STATEMENTS: &[&str] = &[
    "In {month}, {people} noticed that {problem}.",
    "The {measure} rose by {n} percent after {people} began to {action}.",
    "{first} {last} suggested that {people} should {action}.",
    "The {thing} was replaced on {month} {day}, but the {measure} did not change.",
    "According to the {adjective} review, {problem} whenever the {thing} is in use.",
    "Most {people} prefer to {action}, although the {thing} allows for more.",
    "A {adjective2} test with {n} {people} showed no effect on the {measure}.",
    "It is not clear whether the {measure} depends on the {thing} or on the season.",
    "{people_cap} usually {action}, yet {problem}.",
    "For {n} weeks the {measure} stayed below the {adjective} limit.",
    "When {problem}, {people} have to {action} again.",
    "The {thing} and the {thing2} share the same budget, which makes {adjective} planning hard.",
    "Nobody expected that the {measure} would fall so quickly.",
    "{first} asked for a {adjective2} rule: no change to the {thing} without a record of the {measure}.",
    "The first proposal was to {action}; the second was to leave the {thing} alone.",
    "About {n} of every hundred reports mention that {problem}.",
    "{last} disagreed, because the {thing} had worked well since {month}.",
    "If {people} {action}, the {measure} can be predicted one week ahead.",
    "Two {adjective} explanations remain: either {problem}, or the {measure} is recorded in the wrong place.",
    "The contract with {last} and {last2} ends in {month}, so the {thing} must be tested before then.",
    "Since {month}, {people} {action} and write the {measure} into a shared table.",
    "One {adjective2} detail was missing from the summary: {problem}.",
    "The {measure} of the {thing} was {n} points better than that of the {thing2}.",
    "Costs fell, the {measure} improved, and {people} were satisfied for the first time in {n} months.",
    "Even so, {first} {last} warned that {problem}.",
    "To save time, {people} stopped using the {thing} and began to {action}.",
    "The {adjective} answer is that the {thing} was never built for this.",
    "What {people} want is a {adjective2} way to see the {measure} at any time.",
    "After {n} days the team found the cause: {problem}.",
    "The {thing2} costs less than the {thing}, but {people} trust it less.",
    "Between {month} and {month2}, the {measure} moved by less than {n} percent.",
    "Some {people} {action} without being asked, and their results are {adjective}.",
];

pub(super) const HEADINGS: &[&str] = &[
    "Notes on the {thing}.",
    "Section {n}: the {measure}.",
    "Report by {first} {last}.",
    "Why {problem}.",
    "Meeting of {month} {day}.",
    "Open questions about the {thing2}.",
];

/// Closing phrases of different lengths, used to reach a token count exactly.
pub(super) const CLOSINGS: &[&str] = &[
    "Thanks",
    "Thanks.",
    "Please explain.",
    "Please be brief.",
    "Please answer in full.",
    "Please answer in short sentences.",
    "Please give one example for each point.",
    "Keep the answer short and clear, please.",
    "Say what is missing and what you would need to know.",
    "Name the three most important points first and then explain each of them.",
    "Please write for people who have never heard of this before, and avoid any special terms.",
    "Begin with the result, then give the reasons in the order of their weight, and end with the next step.",
];

/// Small pieces that move a token count by one where whole phrases cannot.
pub(super) const FILLERS: &[&str] = &[
    " and so on",
    " as well",
    " please",
    " now",
    " then",
    ".",
    " a",
    " the",
    "!",
    "s",
    " x",
    "\n",
    "a",
    "-",
    "1",
    "?",
    ",",
    " ",
    "e",
];
