// Boost.Asio's own code, compiled here and nowhere else in this folder (BOOST_ASIO_SEPARATE_COMPILATION).
#include <boost/asio/impl/src.hpp>
